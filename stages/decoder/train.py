"""Train the one-step pixel decoder for a frozen tokenizer.

Run:    dvc repro decoder                   (on four GPUs: NPROC=4 dvc repro decoder)
Expect: digits: 3 minutes on two cores, PSNR on val in reports/decoder/<name>/, a picture grid every epoch.

Loss = pixel_weight * L1|L2 + perceptual_weight * distance in the encoder's (or LPIPS') feature space
       + gan.weight * adaptive * hinge, from gan.start_step on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages.core import artefact, distributed, runtime
from stages.core.augment import Affine
from stages.core.loop import Optim, check_shares
from stages.core.params import Machine, Section, impossible, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import torch


class Gan(Section):
    """weight 0 trains without a discriminator."""

    weight: float = Field(ge=0)
    start_step: int = Field(ge=0)
    width: int = Field(ge=8, multiple_of=8)
    lr: float = Field(gt=0)
    max_adaptive: float = Field(gt=0)
    collapse_floor: float = Field(ge=0)


class Params(Section):
    widths: list[int] = Field(min_length=1)
    blocks: int = Field(gt=0)
    pixel: Literal["l1", "l2"]
    pixel_weight: float = Field(ge=0)
    perceptual_weight: float = Field(ge=0)
    perceptual_blocks: list[int] = Field(min_length=1)
    lpips_vgg16: str
    augment: Affine
    gan: Gan
    optim: Optim

    @model_validator(mode="after")
    def values_fit(self) -> Params:
        if any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"widths = {self.widths}: expected positive multiples of 8")
        if self.lpips_vgg16 and (
            Path(self.lpips_vgg16).suffix != ".safetensors" or not Path(self.lpips_vgg16).is_file()
        ):
            raise ValueError(
                f"lpips_vgg16 = {self.lpips_vgg16!r}: expected '' or torchvision's VGG-16 weights as .safetensors "
                "(download vgg16-397923af.pth from download.pytorch.org/models and convert it with "
                "safetensors.torch.save_file)"
            )
        return self


def check(images: Path, codebook: Path, params: Params) -> dict[str, Any]:
    """The facts the decoder is built from; sizes that do not fit are errors before anything heavy is imported."""
    book = artefact.read_config(codebook, "codebook")
    encoder = artefact.read_config(codebook / book["encoder"], "encoder")
    img_px, grid = image_facts(images)["img_px"], encoder["img_px"] // encoder["patch_px"]
    made_px = grid * 2 ** (len(params.widths) - 1)
    if made_px != img_px:
        why = f"{len(params.widths)} levels make {made_px} px of {grid} x {grid} codes; the images have {img_px} px"
        raise impossible("decoder.widths", params.widths, f"{why} (each further level doubles)")
    if bad := [block for block in params.perceptual_blocks if not 0 <= block < encoder["depth"]]:
        raise impossible("decoder.perceptual_blocks", bad, f"expected block numbers from 0 to {encoder['depth'] - 1}")
    return {
        "grid": grid,
        "widths": params.widths,
        "blocks": params.blocks,
        "img_px": img_px,
        "num_codes": book["num_codes"],
    }


def train(name: str, images: Path, codebook: Path, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.scratch import scratch
    from stages.decoder.game import Game
    from stages.decoder.model import OneStep

    facts: dict[str, Any] = {**check(images, codebook, params), "name": name, "tokenizer": codebook.name}
    activations = params.optim.batch_size * facts["img_px"] ** 2 * max(params.widths) * 4 * 8
    print_plan(
        "decoder", out, {"steps": params.optim.total_steps},
        disk_bytes=200 * 2**20, memory_bytes=800 * 2**20 + activations,
    )  # fmt: skip
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(codebook, device)
    torch.manual_seed(params.optim.seed)
    network = OneStep(tokenizer.codebook.vectors, facts["grid"], params.widths, params.blocks).to(device)
    if distributed.rank() == 0:
        print(f"decoder: {sum(p.numel() for p in network.parameters()):,} parameters")
    inputs = {"images": artefact.digest(images), "codebook": artefact.digest(codebook)}
    perceptual = artefact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    with (
        distributed.process_group(),
        scratch(f"decoder-{out.name}", params, [images, codebook], perceptual) as work,
    ):
        splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        game = Game(network, tokenizer, splits, params, machine, work, device)
        game.play(out.name)
        if distributed.rank() == 0:
            game.write_report(report)
            publish(out, network, {**facts, "inputs": inputs})
        distributed.barrier()


def publish(out: Path, network: torch.nn.Module, config: dict[str, Any]) -> None:
    """Make the artefact of the trained network."""
    from safetensors.torch import save_file

    with artefact.new_artefact(out, "decoder", config) as folder:
        state = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=["onestep"], required=True, help="which decoder")
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--out", type=Path, required=True, help="decoder artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("decoder", Params, args.params), load("machine", Machine, args.params)
    check_shares("decoder.optim", params.optim)
    check(args.images, args.codebook, params)
    train(args.name, args.images, args.codebook, args.out, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
