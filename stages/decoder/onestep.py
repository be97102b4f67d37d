"""onestep: convolutions that paint the codes of an image at once; trained by the recipe of stages/core/recipe.py.

The codes come from the tokenizer, which does not learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core import artefact
from stages.core.errors import UserError
from stages.core.loop import check_shares
from stages.core.params import Machine
from stages.core.recipe import Recipe, check_perceptual
from stages.data.reader import image_facts
from stages.decoder.sources import Sources
from stages.decoder.training import Players, facts_of, fit_painter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.encoder.model import Encoder


class Params(Recipe):
    kind: Literal["onestep"]


def check(section: str, sources: Sources, params: Params) -> None:
    """Sizes that do not fit are errors before anything heavy is imported."""
    check_shares(f"{section}.optim", params.optim)
    grid, img_px = artefact.read_config(sources.codebook, "codebook")["grid"], image_facts(sources.images)["img_px"]
    if grid * 2 ** halvings(grid, img_px) != img_px:
        raise UserError(f"{sources.codebook}: {grid} x {grid} codes do not become {img_px} px by doubling")
    check_perceptual(section, params, artefact.read_config(sources.encoder, "encoder")["depth"])


def halvings(grid: int, img_px: int) -> int:
    """How often the side of an image is halved to that of the code grid."""
    return (img_px // grid).bit_length() - 1


def widths_from(grid: int, img_px: int, widths: list[int]) -> list[int]:
    """The channels on the code grid, then after each doubling; a grid coarser than `widths` knows repeats the first.

    So one section of params.yaml serves tokenizers of any grid: the last of `widths` is always at img_px.
    """
    levels = halvings(grid, img_px) + 1
    return (widths[:1] * (levels - len(widths)) + widths)[-levels:]


def fit(name: str, sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    from stages.core.opponent import HingeOpponent, Painted
    from stages.decoder.painter import OneStep

    facts = facts_of(name, sources, params, params.kind)
    facts["widths"] = widths_from(facts["grid"], facts["img_px"], params.widths)

    def invite(vectors_KD: Tensor, encoder: Encoder, device: torch.device) -> Players:
        network = OneStep(vectors_KD, *(facts[key] for key in ("groups", "widths", "blocks"))).to(device)
        opponent = HingeOpponent(params, network.painter.to_pixels.weight, encoder, device)
        return Players(network, opponent, paint, {})

    def paint(painter: Any, pixels: Tensor, codes: Tensor) -> Painted:
        return Painted(painter(codes), pixels.new_zeros(()))

    fit_painter(facts, sources, out, report, params, machine, invite)
