"""Train the one-step pixel decoder for a frozen tokenizer.

Run:    dvc repro decoder                   (on four GPUs: NPROC=4 dvc repro decoder)
Expect: digits: 1 to 3 minutes on two cores, PSNR on val in reports/decoder/<name>/, a picture grid every epoch.

The loss is that of stages/core/recipe.py; the codes come from the tokenizer, which does not learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact, distributed, runtime
from stages.core.loop import check_shares
from stages.core.params import Machine, impossible, load
from stages.core.plan import print_plan
from stages.core.recipe import Recipe, check_perceptual
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import torch


def check(images: Path, encoder: Path, codebook: Path, recipe: Recipe) -> dict[str, Any]:
    """The facts the decoder is built from; sizes that do not fit are errors before anything heavy is imported."""
    book = artefact.read_config(codebook, "codebook")
    img_px, grid = image_facts(images)["img_px"], book["grid"]
    made_px = grid * 2 ** (len(recipe.widths) - 1)
    if made_px != img_px:
        why = f"{len(recipe.widths)} levels make {made_px} px of {grid} x {grid} codes; the images have {img_px} px"
        raise impossible("decoder.widths", recipe.widths, f"{why} (each further level doubles)")
    check_perceptual("decoder", recipe, artefact.read_config(encoder, "encoder")["depth"])
    sizes = {"grid": grid, "groups": book["num_patches"] // grid**2, "widths": recipe.widths, "blocks": recipe.blocks}
    return {**sizes, "img_px": img_px, "num_codes": book["num_codes"]}


def train(
    name: str, images: Path, encoder: Path, codebook: Path, out: Path, report: Path, recipe: Recipe, machine: Machine
) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.game import Game
    from stages.core.opponent import HingeOpponent, Painted
    from stages.core.scratch import scratch
    from stages.decoder.model import OneStep
    from stages.encoder.model import load_encoder

    facts: dict[str, Any] = {**check(images, encoder, codebook, recipe), "name": name, "tokenizer": codebook.name}
    activations = recipe.optim.batch_size * facts["img_px"] ** 2 * max(recipe.widths) * 4 * 8
    print_plan(
        "decoder", out, {"steps": recipe.optim.total_steps},
        disk_bytes=200 * 2**20, memory_bytes=800 * 2**20 + activations,
    )  # fmt: skip
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(codebook, device)
    torch.manual_seed(recipe.optim.seed)
    shape = [facts[key] for key in ("grid", "groups", "widths", "blocks")]
    network = OneStep(tokenizer.codebook.vectors, *shape).to(device)
    if distributed.rank() == 0:
        print(f"decoder: {sum(p.numel() for p in network.parameters()):,} parameters")

    def reconstruct(painter: Any, pixels: torch.Tensor) -> Painted:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            codes = tokenizer.encode_pixels(pixels)
        return Painted(painter(codes), pixels.new_zeros(()), {})

    inputs = {"images": artefact.digest(images), "codebook": artefact.digest(codebook)}
    perceptual = artefact.sha256(Path(recipe.lpips_vgg16)) if recipe.lpips_vgg16 else ""
    with (
        distributed.process_group(),
        scratch(f"decoder-{out.name}", recipe, [images, encoder, codebook], perceptual) as work,
    ):
        splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        guide = load_encoder(encoder, device)
        opponent = HingeOpponent(recipe, network.painter.to_pixels.weight, guide, device)
        game = Game(
            f"decoder {out.name}", network, reconstruct, opponent, guide,
            splits, recipe, machine, work, device,
        )  # fmt: skip
        game.play()
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
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact, for the perceptual loss")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--out", type=Path, required=True, help="decoder artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for curves and pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    recipe, machine = load("decoder", Recipe, args.params), load("machine", Machine, args.params)
    check_shares("decoder.optim", recipe.optim)
    check(args.images, args.encoder, args.codebook, recipe)
    train(args.name, args.images, args.encoder, args.codebook, args.out, args.report, recipe, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
