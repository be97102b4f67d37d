"""Noise on the codes that a generator reads in training, never on those that it learns to predict.

A sampled code is wrong now and then, a code of a real image never: a generator that has seen wrong codes goes on better
from one (Infinity and BitDance flip bits, RobustTok draws near codes).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.codebook.quantizers import load_codebook
from stages.core import artifact
from stages.core.distributed import num_shares, share_of
from stages.core.params import impossible
from stages.generator.params import CodeNoise

ROWS = 1024  # code vectors compared at once with all


def nearest_codes(vectors_KD: Tensor, count: int) -> Tensor:
    """int64 [K, count]: the codes of the vectors nearest to each one, without itself, the nearest first."""
    found = []
    for start in range(0, len(vectors_KD), ROWS):
        own = torch.arange(start, min(start + ROWS, len(vectors_KD)))
        distances = torch.cdist(vectors_KD[own], vectors_KD)
        distances[own - start, own] = torch.inf
        found.append(distances.topk(count, largest=False).indices)
    return torch.cat(found)


def load_nearest(codebook: Path, noise: CodeNoise) -> Tensor:
    """The nearest codes of each code of a codebook artifact, among those of its own codebook if it has several."""
    config = artifact.read_config(codebook, "codebook")
    own = load_codebook(codebook, config).vectors.unflatten(0, (config["codebooks"], -1))
    if noise.nearest >= own.shape[1]:
        raise impossible(
            "generator.model.code_noise.nearest", noise.nearest, f"expected less than {own.shape[1]} codes"
        )
    return torch.cat([nearest_codes(vectors, noise.nearest) + g * own.shape[1] for g, vectors in enumerate(own)])


class NoisyCodes:
    """A model of codes that reads a share of them replaced by a near code; for one call of a loss."""

    def __init__(self, model: Any, nearest_KC: Tensor, share: float, rng: torch.Generator):
        self.model, self.nearest_KC, self.share, self.rng = model, nearest_KC, share, rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, given: Tensor, codes_BN: Tensor, *rest: Tensor) -> Tensor:
        return self.model(given, self.replace(codes_BN), *rest)

    def replace(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> the same with codes replaced; a mask's number stays. The noise is that of the whole batch."""
        shape, count = (len(codes_BN) * num_shares(), codes_BN.shape[1]), self.nearest_KC.shape[1]
        chosen = share_of(torch.rand(shape, generator=self.rng) < self.share).to(codes_BN.device)
        which = share_of(torch.randint(count, shape, generator=self.rng)).to(codes_BN.device)
        near = self.nearest_KC[codes_BN.clamp(max=len(self.nearest_KC) - 1), which]
        return torch.where(chosen & (codes_BN < len(self.nearest_KC)), near, codes_BN)
