"""vqgan: a convolutional autoencoder with a vector-quantised bottleneck (Esser et al. 2021; papers' baseline, 2.4).

Loss = that of stages/core/recipe.py + ||sg(z) - c||² + commitment ||z - sg(c)||². Codes start uniform in ±1/K, and with
reanchor: true (CVQ-VAE, another baseline of papers' table 2.4) at once jump to rows of the first batch, as dead codes
do later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.codebook import joint
from stages.codebook.joint import JointRecipe, fit_autoencoder
from stages.codebook.sources import Sources
from stages.core.params import Machine


class Params(JointRecipe):
    kind: Literal["vqgan"]
    num_codes: int = Field(gt=1, le=2**32)
    dim: int = Field(gt=0)
    commitment: float = Field(ge=0)
    reanchor: bool


check = joint.check


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` with its joint decoder; curves to the folder `report`."""
    import torch

    from stages.codebook.quantise import Vq

    torch.manual_seed(params.optim.seed)
    quantiser = Vq(params.num_codes, params.dim, params.commitment)
    facts = {"tokenizer": params.kind}
    fit_autoencoder(sources, out, report, params, machine, quantiser, facts, anchored=params.reanchor)
