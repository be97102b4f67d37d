"""onestep: convolutions that paint the codes of an image at once; trained by the recipe of stages/core/recipe.py.

The codes come from the tokenizer, which does not learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core import artefact
from stages.core.loop import check_shares
from stages.core.params import Machine
from stages.core.recipe import Recipe, check_perceptual
from stages.decoder.sources import Sources
from stages.decoder.training import Players, check_grid, facts_of, fit_painter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.encoder.model import Encoder


class Params(Recipe):
    kind: Literal["onestep"]


def check(section: str, sources: Sources, params: Params) -> None:
    """Sizes that do not fit are errors before anything heavy is imported."""
    check_shares(f"{section}.optim", params.optim)
    check_grid(sources)
    check_perceptual(section, params, artefact.read_config(sources.encoder, "encoder")["depth"])


def fit(name: str, sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    from stages.core.opponent import HingeOpponent, Painted
    from stages.decoder.painter import OneStep

    facts = facts_of(name, sources, params, params.kind)

    def invite(vectors_KD: Tensor, encoder: Encoder, device: torch.device) -> Players:
        network = OneStep(vectors_KD, *(facts[key] for key in ("groups", "widths", "blocks"))).to(device)
        opponent = HingeOpponent(params, network.painter.to_pixels.weight, encoder, device)
        return Players(network, opponent, paint, {})

    def paint(painter: Any, pixels: Tensor, codes: Tensor) -> Painted:
        return Painted(painter(codes), pixels.new_zeros(()))

    fit_painter(facts, sources, out, report, params, machine, invite)
