"""onestep: convolutions that paint the codes of an image at once; trained by the recipe of stages/core/recipe.py.

The codes come from the tokenizer, which does not learn. Digits: 1 to 3 minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core import artefact, distributed
from stages.core.loop import check_shares
from stages.core.params import Machine, impossible
from stages.core.plan import print_plan
from stages.core.recipe import Recipe, check_perceptual
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.sources import Sources

if TYPE_CHECKING:
    import torch


class Params(Recipe):
    kind: Literal["onestep"]


def check(section: str, sources: Sources, params: Params) -> None:
    """Sizes that do not fit are errors before anything heavy is imported."""
    check_shares(f"{section}.optim", params.optim)
    grid, img_px = artefact.read_config(sources.codebook, "codebook")["grid"], image_facts(sources.images)["img_px"]
    made_px = grid * 2 ** (len(params.widths) - 1)
    if made_px != img_px:
        why = f"{len(params.widths)} levels make {made_px} px of {grid} x {grid} codes; the images have {img_px} px"
        raise impossible(f"{section}.widths", params.widths, f"{why} (each further level doubles)")
    check_perceptual(section, params, artefact.read_config(sources.encoder, "encoder")["depth"])


def facts_of(name: str, sources: Sources, params: Params) -> dict[str, Any]:
    """What the decoder is built from."""
    return sources.facts(params.kind, name, {}) | {"widths": params.widths, "blocks": params.blocks}


def fit(name: str, sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.game import Game
    from stages.core.scratch import scratch
    from stages.decoder.painter import OneStep
    from stages.encoder.model import load_encoder

    facts = facts_of(name, sources, params)
    activations = params.optim.batch_size * facts["img_px"] ** 2 * max(params.widths) * 4 * 8
    print_plan(
        "decoder", out, {"steps": params.optim.total_steps},
        disk_bytes=200 * 2**20, memory_bytes=800 * 2**20 + activations,
    )  # fmt: skip
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(sources.codebook, device)
    torch.manual_seed(params.optim.seed)
    shape = [facts[key] for key in ("grid", "groups", "widths", "blocks")]
    network = OneStep(tokenizer.codebook.vectors, *shape).to(device)
    if distributed.rank() == 0:
        print(f"decoder: {sum(p.numel() for p in network.parameters()):,} parameters")

    def reconstruct(painter: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            codes = tokenizer.encode_pixels(pixels)
        return painter(codes), pixels.new_zeros(()), {}

    perceptual = artefact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    inputs = [sources.images, sources.encoder, sources.codebook]
    with distributed.process_group(), scratch(f"decoder-{out.name}", params, inputs, perceptual) as work:
        splits = {split: ImageSplit(sources.images, split, machine.num_workers) for split in ("train", "val")}
        game = Game(
            f"decoder {out.name}", network, reconstruct, network.painter.to_pixels.weight,
            load_encoder(sources.encoder, device), splits, params, machine, work, device,
        )  # fmt: skip
        game.play()
        if distributed.rank() == 0:
            game.write_report(report)
            publish(out, network, facts)
        distributed.barrier()


def publish(out: Path, network: torch.nn.Module, config: dict[str, Any]) -> None:
    """Make the artefact of the trained network."""
    from safetensors.torch import save_file

    with artefact.new_artefact(out, "decoder", config) as folder:
        state = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
