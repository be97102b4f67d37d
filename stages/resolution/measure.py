"""Do convolutions that learned from images of one size work on larger ones? Tokenizer and decoder at several scales.

Run:    dvc repro resolution      (one of them: dvc repro resolution@vqgan-onestep)
Expect: digits: half a minute. psnr_db and ssim of `decoder` and of the tokenizer's own `joint` decoder at scale_1 (the
        size of training), scale_2 …; _std by bootstrap over images. `skipped` says why there are none.

Scenes are rendered again at the larger size, with the detail that belongs there; images of other sources are enlarged
and have no more detail than before. A transformer has learned places, which a larger grid has not: so it is left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.core import artefact, runtime
from stages.core.choice import choose
from stages.core.figures import write_figures
from stages.core.params import DIFFERENT, Machine, Section, load
from stages.data.enlarged import how_enlarged, read_enlarged
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.sources import check_codes_of

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer
    from stages.decoder.model import Decoder

JOINT = "decoder"  # inside a codebook artefact
FIGURES = ("psnr_db", "ssim")


class Params(Section):
    scales: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1), DIFFERENT]
    max_images: int = Field(ge=2)
    bootstrap_draws: int = Field(ge=2)
    images_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)


def measure(images: Path, codebook: Path, decoder: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write metrics.json and the folder pictures/ to the folder `report`."""
    pictures = report / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = artefact.read_config(codebook, "codebook")["rows"]
    if rows != "conv":
        write_figures(report, {"skipped": f"{codebook.name}: its transformer ({rows}) sees images of one size"})
        return
    from stages.core.device import pick_device
    from stages.decoder.model import load_decoder

    device = pick_device(machine.device)
    painter = load_decoder(decoder, device)
    if not painter.any_size:
        kind = painter.config["decoder"]
        write_figures(report, {"skipped": f"{decoder.name}: a decoder of kind {kind} paints images of one size"})
        return
    painters = {"decoder": painter, "joint": load_decoder(codebook / JOINT, device)}
    figures = at_scales(images, codebook, painters, pictures, params, machine)
    names = {"name": painter.config["name"], "tokenizer": codebook.name}
    write_figures(report, {**names, **figures, "protocol": [protocol(images, params)]})


def at_scales(
    images: Path, codebook: Path, painters: dict[str, Decoder], pictures: Path, params: Params, machine: Machine
) -> dict[str, Any]:
    """{painter: {scale_1: figures, …}}; the picture goes to the folder `pictures`."""
    from stages.codebook.model import load_tokenizer
    from stages.resolution.show import show

    val = ImageSplit(images, "val", machine.num_workers)
    tokenizer = load_tokenizer(codebook, painters["decoder"].device)
    line = Line(images, val, tokenizer, painters, params.seed)
    chosen, columns = choose(len(val), params.max_images, params.seed), []
    figures: dict[str, Any] = {name: {} for name in painters}
    for scale in params.scales:
        parts = [compare(line.run(batch, scale)) for batch in batches(chosen, machine.infer_batch_size, scale)]
        for name, of_name in figures.items():
            of_name[f"scale_{scale}"] = summary([part[name] for part in parts], params)
        columns += line.run(chosen[choose(len(chosen), params.images_shown, params.seed)], scale).values()
        print(f"resolution: {scale * val.img_px} px done", flush=True)
    show(pictures / "scales.png", columns)
    return figures


@dataclass(frozen=True)
class Line:
    """From val images to codes and back, at any scale."""

    images: Path
    val: ImageSplit
    tokenizer: Tokenizer
    painters: dict[str, Decoder]
    seed: int

    def run(self, numbers: np.ndarray, scale: int) -> dict[str, np.ndarray]:
        """uint8 [B, H, W, 3]: the numbered images as `original` and, by name, what each decoder paints.

        Every batch starts from the same seed, so that the size of batches changes no image.
        """
        import torch

        originals = read_enlarged(self.images, self.val, numbers, scale)
        codes, size = self.tokenizer.encode(originals), len(numbers)
        return {"original": originals} | {
            name: painter.enlarged(scale).decode(codes, torch.Generator().manual_seed(self.seed), size)
            for name, painter in self.painters.items()
        }


def batches(chosen: np.ndarray, size: int, scale: int) -> list[np.ndarray]:
    """The image numbers in runs of at most as many pixels as `size` images of the training size have."""
    step = max(1, size // scale**2)
    return [chosen[start : start + step] for start in range(0, len(chosen), step)]


def compare(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float64 [FIGURES, B] of each decoder."""
    import numpy as np

    from stages.core.likeness import ssim
    from stages.core.scores import psnr

    original = images["original"]
    return {name: np.stack([psnr(original, made), ssim(original, made)])
            for name, made in images.items() if name != "original"}  # fmt: skip


def summary(parts: list[np.ndarray], params: Params) -> dict[str, float]:
    """Means over images with their spread."""
    import numpy as np

    from stages.core.scores import mean_and_std

    rows = zip(FIGURES, np.concatenate(parts, 1), strict=True)
    found = [mean_and_std(name, values, params.bootstrap_draws, params.seed) for name, values in rows]
    return {key: value for one in found for key, value in one.items()}


def protocol(images: Path, params: Params) -> dict[str, Any]:
    """How the figures were made, whatever the tokenizer and the decoder."""
    facts = image_facts(images)
    return {
        "of": "resolution",
        "reference": "val",
        "reference_digest": artefact.digest(images)[:12],
        "img_px": facts["img_px"],
        "count": min(facts["splits"]["val"]["images"], params.max_images),
        "larger_images": how_enlarged(images),
        "scales": params.scales,
        "seed": params.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artefact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and pictures/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("resolution", Params, args.params), load("machine", Machine, args.params)
    artefact.find(args.images)
    check_codes_of(args.decoder, args.codebook)
    measure(args.images, args.codebook, args.decoder, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
