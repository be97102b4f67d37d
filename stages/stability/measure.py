"""How many codes change when Gaussian noise is added to an image? The noise study of DiGIT (NeurIPS 2024, Table 1).

Run:    dvc repro stability
Expect: digits: 20 s a tokenizer; 297 images x 8 levels x 3 seeds go through the encoder.

Noise (stages/stability/noise.py) is added to the pixels of val images and not clipped, since clipping would take it
away where an image is black or white. An image gets the same noise for every tokenizer, and at every level the same
but for its size. Images of one flat colour have no signal and are left out. Figures of a level, snr_<dB>_db, are means
over seeds, with _std between them and _image_std, the standard error over val images:

    change             share of positions whose code differs
    foreground_change  the same among positions that show something (stages/stability/foreground.py)
    code_cosine        cosine similarity of the code vectors before and after, mean over positions
    row_cosine         the same of the rows before they are quantised, placed among the code vectors
    measured_snr_db    of the noise that was really added, mean over images

A tokenizer of few codes is stable because it is coarse: compare at equal codes or equal error of reconstruction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.core import artefact, runtime
from stages.core.choice import choose
from stages.core.errors import UserError
from stages.core.params import DIFFERENT, Machine, Section, load
from stages.data.masks import Masks
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer
    from stages.stability.change import Batch


class Params(Section):
    # Noise fainter than 60 dB would drown in the rounding of float32 pixels.
    snrs_db: Annotated[list[Annotated[float, Field(ge=-100, le=60)]], Field(min_length=1), DIFFERENT]
    seeds: Annotated[list[int], Field(min_length=2), DIFFERENT]
    max_images: int = Field(gt=0)
    foreground_variance: float = Field(ge=0)
    seed: int = Field(ge=0, lt=2**32)


def level(snr_db: float) -> str:
    """The name of a level's figures."""
    return f"snr_{snr_db:g}_db"


def measure(images: Path, codebook: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write metrics.json and stability.tsv to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.figures import write_figures, write_table
    from stages.stability.change import disturb, how_many

    val = ImageSplit(images, "val", machine.num_workers)
    chosen = choose(len(val), params.max_images, params.seed)
    masks = masks_of(images, [val.keys[number] for number in chosen])
    tokenizer = load_tokenizer(codebook, pick_device(machine.device))
    sums, counts = [], []
    with torch.inference_mode():
        for batch in batches(val, chosen, masks, tokenizer, params, machine.infer_batch_size):
            sums.append(disturb(tokenizer, batch, params.snrs_db, params.seeds))
            counts.append(how_many(batch))
    varied = sum(map(len, counts))
    if varied < 2:
        why = f"{varied} of the {len(chosen)} val images used are not of one flat colour: expected 2 or more to disturb"
        raise UserError(f"{images}: {why}")
    count = torch.cat(counts)
    figures = summary(torch.cat(sums).numpy(), count.numpy(), params)
    used, count = {"images": varied, "flat_images": len(chosen) - varied}, count.sum(0)
    entries = [{**protocol(images, tokenizer, masks, params), **used}, tokenizer_facts(codebook, tokenizer)]
    write_figures(report, {**figures, "foreground_share": float(count[1] / count[0]), "protocol": entries})
    names = [name for name in figures[level(params.snrs_db[0])] if not name.endswith("_std")]
    rows = [(snr_db, *(figures[level(snr_db)][name] for name in names)) for snr_db in params.snrs_db]
    write_table(report / "stability.tsv", ["snr_db", *names], rows)


def masks_of(images: Path, keys: list[str]) -> Masks | None:
    """The masks of the val images, if each of those with these keys has one."""
    masks = Masks(images, "val")
    return masks if all(key in masks for key in keys) else None


def batches(
    val: ImageSplit, chosen: np.ndarray, masks: Masks | None, tokenizer: Tokenizer, params: Params, batch_size: int
) -> Iterator[Batch]:
    """The chosen images without those of one flat colour."""
    from stages.core.progress import bar

    with bar("stability", len(chosen), 0, "image") as progress:
        for start in range(0, len(chosen), batch_size):
            numbers = chosen[start : start + batch_size]
            images = val.read(numbers)
            varied = (images != images[:, :1, :1]).any((1, 2, 3))
            if varied.any():
                keys = [val.keys[number] for number in numbers[varied]]
                covered = masks.read(keys) if masks else None
                yield as_batch(numbers[varied].tolist(), images[varied], covered, tokenizer, params)
            progress.update(len(numbers))


def as_batch(
    numbers: list[int], images: np.ndarray, covered: np.ndarray | None, tokenizer: Tokenizer, params: Params
) -> Batch:
    """uint8 [B, H, W, 3] and, if there are masks, what they cover (bool [B, H, W]), on the tokenizer's device."""
    import torch

    from stages.core.pixels import to_float
    from stages.stability.change import Batch
    from stages.stability.foreground import by_mask, by_variance

    pixels = to_float(images, tokenizer.codebook.vectors.device)
    if covered is None:
        shown = by_variance(pixels, tokenizer.grid, params.foreground_variance)
    else:
        shown = by_mask(torch.from_numpy(covered).to(pixels.device), tokenizer.grid)
    return Batch(numbers, pixels, shown.repeat(1, tokenizer.num_patches // tokenizer.grid**2))


def summary(sums: np.ndarray, counts: np.ndarray, params: Params) -> dict[str, Any]:
    """{level: figures with their deviations}; what is a mean over nothing is left out.

    sums [M, seeds, levels, FIGURES], counts [M, FIGURES] of M images. A figure is a ratio of sums over images, whose
    standard error is that of the mean of what its images are above or below it (Cochran 1977, 6.4).
    """
    import numpy as np

    from stages.stability.change import FIGURES

    total = np.where(counts.sum(0) > 0, counts.sum(0), np.nan)
    of_seeds = sums.sum(0) / total
    means = of_seeds.mean(0)
    above = sums.mean(1) - means * counts[:, None]
    found = {"": means, "_std": of_seeds.std(0, ddof=1), "_image_std": len(sums) ** 0.5 * above.std(0, ddof=1) / total}
    return {
        level(snr_db): {
            f"{name}{suffix}": float(values[row, column])
            for column, name in enumerate(FIGURES)
            if np.isfinite(means[row, column])
            for suffix, values in found.items()
        }
        for row, snr_db in enumerate(params.snrs_db)
    }


def protocol(images: Path, tokenizer: Tokenizer, masks: Masks | None, params: Params) -> dict[str, Any]:
    """How the figures were made, whatever the tokenizer; on another code grid they are another protocol's."""
    variance = f"variance in the patch above {params.foreground_variance:g} (pixels from -1 to 1)"
    return {
        "of": "stability",
        "reference": "val",
        "reference_digest": artefact.digest(images)[:12],
        "img_px": image_facts(images)["img_px"],
        "positions": tokenizer.num_patches,
        "signal_power": "variance of each channel around its own mean, averaged over channels, of each image",
        "noise": "white and Gaussian, independent in every pixel and channel, neither clipped nor rounded",
        "foreground": "a pixel of the image's mask in the patch" if masks else variance,
        "snrs_db": params.snrs_db,
        "noise_seeds": params.seeds,
    }


def tokenizer_facts(codebook: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What sets this row apart from others of its protocol."""
    return {"of": "tokenizer", "num_codes": tokenizer.num_codes, "digest": artefact.digest(codebook)[:12]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and stability.tsv")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("stability", Params, args.params), load("machine", Machine, args.params)
    measure(args.images, args.codebook, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
