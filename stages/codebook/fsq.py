"""fsq: the autoencoder of vqgan with finite scalar quantisation (Mentzer et al. 2023; papers' baseline, 2.4).

Nothing in the codebook is learned, so that it cannot collapse; K = prod(levels): 8,000 = 8·8·5·5·5.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from stages.codebook import joint
from stages.codebook.joint import JointRecipe, fit_autoencoder
from stages.codebook.sources import Sources
from stages.core.params import Machine

MOST_LEVELS = 1000  # with more the bounds of quantise.Fsq reach beyond the outermost level


class Params(JointRecipe):
    kind: Literal["fsq"]
    levels: list[int] = Field(min_length=1)

    @field_validator("levels")
    @classmethod
    def each_has_a_choice(cls, levels: list[int]) -> list[int]:
        if min(levels) < 2 or max(levels) > MOST_LEVELS or math.prod(levels) > 2**24:
            raise ValueError(f"{levels}: expected 2 to {MOST_LEVELS} levels each, and at most 2^24 codes")
        return levels


check = joint.check


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` with its joint decoder; curves to the folder `report`."""
    from stages.codebook.quantise import Fsq

    facts = {"tokenizer": params.kind, "levels": params.levels}
    fit_autoencoder(sources, out, report, params, machine, Fsq(params.levels), facts, anchored=False)
