"""Which codes ADDP masks in training: 66 levels of noise, and two nested masks one to five levels apart."""

import math

import torch
from torch import Tensor

LEVELS, MOST_LEVELS_APART = 66, 5


def masked_shares() -> Tensor:
    """float64 [66]: the share of codes that each level masks, cos(i π/200) for i = 1 … 66, the noisiest first."""
    return (torch.arange(1, LEVELS + 1, dtype=torch.float64) * math.pi / 200).cos()


def level_probabilities() -> Tensor:
    """float64 [66]: in proportion to the density of N(0.55, 0.25²) at the share, cut off below 0.5 and above 1."""
    density = (-(((masked_shares() - 0.55) / 0.25) ** 2) / 2).exp()
    return density / density.sum()


def masked_counts(num_patches: int) -> Tensor:
    """int64 [66]: how many of the codes each level masks, rounded up."""
    return (masked_shares() * num_patches).ceil().long()


def draw_levels(rng: torch.Generator) -> tuple[int, int]:
    """A level and a noisier one, 1 to 5 before it; at the top both are the noisiest."""
    level = int(torch.multinomial(level_probabilities(), 1, generator=rng))
    gap = int(torch.randint(1, MOST_LEVELS_APART + 1, (), generator=rng))
    return level, max(0, level - gap)


def nested_masks(batch: int, num_patches: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """bool [B, N] twice: a mask with equally many true entries in every row, and a noisier one that contains it."""
    counts = masked_counts(num_patches)
    level, noisier = draw_levels(rng)
    ranks_BN = torch.rand(batch, num_patches, generator=rng).argsort(1).argsort(1)
    return ranks_BN < counts[level], ranks_BN < counts[noisier]
