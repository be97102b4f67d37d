"""What does a decoder make of a tokenizer's codes, in one decoding step and in many? Val images there and back.

Run:    dvc repro sweep           (one of them: dvc repro sweep@kmeans-onestep)
Expect: digits: 10 s for onestep; minutes for a decoder that takes steps, which has a row for each number of them.

Figures of `steps_<number>`, or of `once` for a decoder to which steps are no setting:

    rfid[judge], rfid[embedded]  Fréchet distance to the same images before the tokenizer, in two feature spaces
    psnr_db, ssim                means over images
    perceptual                   distance of the encoder's features, as decoders are trained for; mean over images
    agreement                    share of images in which the judge sees their class
    gflop_an_image               10^9 multiplications and additions in products of matrices and convolutions

Each is a mean over decoding seeds with _seed_std between them, if the decoder draws at random; _std is by bootstrap
over the images under the first seed, whose draws stand under `bootstrap`.
"""

from __future__ import annotations

import argparse
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.core import artefact, runtime
from stages.core.choice import choose
from stages.core.params import DIFFERENT, Machine, Section, impossible, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts, num_images
from stages.decoder.sources import check_codes_of

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer
    from stages.decoder.model import Decoder
    from stages.sweep.scores import Real

BASE_BYTES = 10**9  # Python, its libraries, the networks and a batch


class Params(Section):
    steps: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1), DIFFERENT]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=2), DIFFERENT]
    max_images: int = Field(ge=2)
    perceptual_blocks: list[int] = Field(min_length=1)
    bootstrap_draws: int = Field(ge=2)
    images_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)


def check(encoder: Path, params: Params) -> None:
    """Blocks that the encoder has not are an error."""
    depth = artefact.read_config(encoder, "encoder")["depth"]
    if bad := [block for block in params.perceptual_blocks if not 0 <= block < depth]:
        raise impossible("sweep.perceptual_blocks", bad, f"expected block numbers from 0 to {depth - 1}")


def sweep(
    images: Path, encoder: Path, judge: Path, codebook: Path, decoder: Path, report: Path,
    params: Params, machine: Machine,
) -> None:  # fmt: skip
    """Write metrics.json and steps.png to the folder `report`."""
    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.figures import write_figures
    from stages.decoder.model import load_decoder
    from stages.sweep.scores import open_real, score
    from stages.sweep.show import Rows

    announce(images, report, params)
    device = pick_device(machine.device)
    tokenizer, painter = load_tokenizer(codebook, device), load_decoder(decoder, device)
    val = ImageSplit(images, "val", machine.num_workers)
    real = open_real(val, choose(len(val), params.max_images, params.seed), encoder, judge, params, machine, device)
    codes, rows = tokenizer.encode(real.images, machine.infer_batch_size), Rows(real.images, params)
    figures: dict[str, Any] = {"decoder": decoder_facts(painter), "codes": code_facts(tokenizer)}
    for name, variant in variants(painter, params.steps).items():
        decoded = decode(variant, codes, params.seeds, machine.infer_batch_size)
        rows.add(name, decoded[0])
        figures[name] = {**score(decoded, real), "gflop_an_image": gflop_an_image(variant, codes)}
        print_summary(name, figures[name])
    rows.save(report / "steps.png")
    write_figures(report, {**figures, "protocol": [protocol(images, real, params), rows.facts()]})


def announce(images: Path, report: Path, params: Params) -> None:
    """Print the plan: the images used and one decoding of them each are in memory at once."""
    count, side = min(num_images(images, "val"), params.max_images), image_facts(images)["img_px"]
    memory = BASE_BYTES + (1 + len(params.seeds)) * count * 3 * side**2
    print_plan("sweep", report, {"val images": count}, disk_bytes=5 * 2**20, memory_bytes=memory)


def variants(decoder: Decoder, steps: list[int]) -> dict[str, Decoder]:
    """{name of a group of figures: the decoder in so many steps}, those of its own config among them."""
    if decoder.steps is None:
        return {"once": decoder}
    return {f"steps_{number}": decoder.in_steps(number) for number in sorted({*steps, decoder.steps})}


def decode(decoder: Decoder, codes: np.ndarray, seeds: list[int], batch_size: int) -> list[np.ndarray]:
    """uint8 [M, H, W, 3] under each seed, or once if nothing is random."""
    import torch

    chosen = seeds if decoder.draws else seeds[:1]
    return [decoder.decode(codes, torch.Generator().manual_seed(seed), batch_size) for seed in chosen]


def gflop_an_image(decoder: Decoder, codes: np.ndarray) -> float:
    """What it costs to decode one image: unlike seconds, the same on every machine."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        decoder.decode(codes[:1])
    return counter.get_total_flops() / 1e9


def decoder_facts(decoder: Decoder) -> dict[str, Any]:
    """What the decoder is."""
    config = decoder.config
    facts = {"name": config["name"], "kind": config["decoder"], "tokenizer": config["tokenizer"]}
    facts["parameters"] = decoder.num_parameters
    return facts if decoder.steps is None else {**facts, "steps": decoder.steps}


def code_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What an image is compressed to: a code of several groups is one of num_codes / groups."""
    groups = tokenizer.num_patches // tokenizer.grid**2
    bits = tokenizer.num_patches * log2(tokenizer.num_codes / groups)
    sizes = {"tokens": tokenizer.num_patches, "num_codes": tokenizer.num_codes, "bits_an_image": bits}
    return {"kind": tokenizer.config["tokenizer"], **sizes}


def protocol(images: Path, real: Real, params: Params) -> dict[str, Any]:
    """How the figures were made, whatever the decoder."""
    from stages.core.protocol import describe

    how = params.model_dump(include={"perceptual_blocks", "bootstrap_draws"})
    how |= {"choice_seed": params.seed, "decoding_seeds": params.seeds}
    facts, digest, count = image_facts(images), artefact.digest(images), len(real.labels)
    return describe("sweep", "val", facts, digest, real.labels, count, real.spaces, **how)


def print_summary(name: str, figures: dict[str, Any]) -> None:
    """One line."""
    plain = {key: value for key, value in figures.items() if isinstance(value, float) and not key.endswith("_std")}
    print(f"sweep: {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in plain.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact: perceptual distance and a space")
    parser.add_argument("--judge", type=Path, required=True, help="judge artefact: agreement and its feature space")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--decoder", type=Path, required=True, help="decoder artefact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and steps.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("sweep", Params, args.params), load("machine", Machine, args.params)
    check(args.encoder, params)
    check_codes_of(args.decoder, args.codebook)
    sweep(args.images, args.encoder, args.judge, args.codebook, args.decoder, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
