"""What the decoders share that are trained by the game of stages/core/game.py; how any decoder's weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.core import artefact, distributed
from stages.core.errors import UserError
from stages.core.params import Machine
from stages.core.plan import print_plan
from stages.core.recipe import Painting
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.sources import Sources

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stages.core.opponent import Opponent, Painted
    from stages.encoder.model import Encoder


class Players(NamedTuple):
    """A network, its opponent, and how it paints: (network, pixels [B, 3, H, W], their codes [B, N]) -> `Painted`.

    `facts` are what the artefact's config must say of the network, beside `facts_of`.
    """

    network: nn.Module
    opponent: Opponent
    paint: Callable[[Any, Tensor, Tensor], Painted]
    facts: dict[str, Any]


# code vectors [K, D], the frozen encoder, device -> players, made after the seed was set
Invite = Callable[["Tensor", "Encoder", "torch.device"], Players]


def halvings(grid: int, img_px: int) -> int:
    """How often the side of an image is halved to that of the code grid."""
    return max((img_px // grid).bit_length() - 1, 0)


def check_grid(sources: Sources) -> None:
    """Codes whose grid doubling does not bring to the images' size are an error."""
    grid, img_px = artefact.read_config(sources.codebook, "codebook")["grid"], image_facts(sources.images)["img_px"]
    if grid * 2 ** halvings(grid, img_px) != img_px:
        raise UserError(f"{sources.codebook}: {grid} x {grid} codes do not become {img_px} px by doubling")


def widths_from(grid: int, img_px: int, widths: list[int]) -> list[int]:
    """The channels on the code grid, then after each doubling; a grid coarser than `widths` knows repeats the first.

    So one section of params.yaml serves tokenizers of any grid: the last of `widths` is always at img_px.
    """
    levels = halvings(grid, img_px) + 1
    return (widths[:1] * (levels - len(widths)) + widths)[-levels:]


def facts_of(name: str, sources: Sources, params: Painting, kind: str) -> dict[str, Any]:
    """What the decoder is built from."""
    facts = sources.facts(kind, name, {})
    widths = widths_from(facts["grid"], facts["img_px"], params.widths)
    return facts | {"widths": widths, "blocks": params.blocks}


def fit_painter(
    facts: dict[str, Any], sources: Sources, out: Path, report: Path, params: Painting, machine: Machine, invite: Invite
) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    import torch

    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.game import Game
    from stages.core.scratch import scratch
    from stages.encoder.model import load_encoder

    activations = params.optim.batch_size * facts["img_px"] ** 2 * max(params.widths) * 4 * 8
    print_plan(
        "decoder", out, {"steps": params.optim.total_steps},
        disk_bytes=200 * 2**20, memory_bytes=800 * 2**20 + activations,
    )  # fmt: skip
    device = pick_device(machine.device)
    tokenizer, encoder = load_tokenizer(sources.codebook, device), load_encoder(sources.encoder, device)
    splits = {split: ImageSplit(sources.images, split, machine.num_workers) for split in ("train", "val")}
    torch.manual_seed(params.optim.seed)
    players = invite(tokenizer.codebook.vectors, encoder, device)
    network = players.network.to(device)
    if distributed.rank() == 0:
        print(f"decoder: {sum(p.numel() for p in network.parameters()):,} parameters")

    def reconstruct(painter: Any, pixels: Tensor) -> Painted:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            codes = tokenizer.encode_pixels(pixels)
        return players.paint(painter, pixels, codes)

    perceptual = artefact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    inputs = [sources.images, sources.encoder, sources.codebook]
    with distributed.process_group(), scratch(f"decoder-{out.name}", params, inputs, perceptual) as work:
        game = Game(
            f"decoder {out.name}", network, reconstruct, players.opponent,
            encoder, splits, params, machine, work, device,
        )  # fmt: skip
        game.play()
        if distributed.rank() == 0:
            game.write_report(report)
            with artefact.new_artefact(out, "decoder", {**facts, **players.facts}) as folder:
                artefact.save_tensors(folder / "model.safetensors", network.state_dict())
        distributed.barrier()
