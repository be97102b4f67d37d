"""From rows to codes and back: the nearest of K vectors, or finite scalar quantisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CPU_ROWS = 512  # rows compared at once on a CPU


class Codebook(nn.Module):
    """Code vectors [G * K, D] and the rule that assigns a row to one of them.

    The codes of an image come in G groups of equally many positions, one group after the other; each group chooses
    among K vectors of its own, and code g * K + k is vector k of group g.
    """

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, normalise: bool, groups: int = 1):
        super().__init__()
        self.register_buffer("vectors", vectors_KD.float())
        self.normalise, self.groups = normalise, groups

    def placed(self, rows: Tensor) -> Tensor:
        """float [..., D] -> float32 [..., D] among the vectors: of unit length if `normalise`, else as they are."""
        return F.normalize(rows.float(), dim=-1) if self.normalise else rows.float()

    def assign(self, rows: Tensor) -> Tensor:
        """float [..., N, D] -> int64 [..., N]: argmin over k of ||f - c_k||², f being the row as it is placed."""
        rows = self.placed(rows)
        grouped, own = rows.unflatten(-2, (self.groups, -1)), self.vectors.unflatten(0, (self.groups, -1))
        codes = [
            nearest(grouped.select(-3, group).flatten(0, -2), vectors) + group * len(vectors)
            for group, vectors in enumerate(own)
        ]
        return torch.stack([part.view(*rows.shape[:-2], -1) for part in codes], -2).flatten(-2)


@torch.no_grad()
def nearest(rows_MD: Tensor, vectors_KD: Tensor) -> Tensor:
    """int64 [M]: the nearest vector of each row of float32 [M, D], of equally near ones the first."""
    # ||f||² is the same for every k and left out; a part at a time, because rows x K numbers may not fit.
    size = vectors_KD.square().sum(1)
    with torch.autocast(rows_MD.device.type, enabled=False):  # three digits of bf16 would not tell near codes apart
        if rows_MD.device.type != "cpu":
            parts = rows_MD.split(max(1, 2**26 // len(vectors_KD)))
            return torch.cat([torch.addmm(size, part, vectors_KD.T, alpha=-2).argmin(1) for part in parts])
        # On a CPU a part that stays in its cache, written to one place, and numpy's argmin, which is vectorised.
        codes = torch.empty(len(rows_MD), dtype=torch.int64)
        scores = torch.empty(CPU_ROWS, len(vectors_KD))
        for part, found in zip(rows_MD.split(CPU_ROWS), codes.split(CPU_ROWS), strict=True):
            torch.addmm(size, part, vectors_KD.T, alpha=-2, out=scores[: len(part)])
            scores[: len(part)].numpy().argmin(1, out=found.numpy())
        return codes


class Fsq(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023): each channel is bounded and rounded to one of its levels.

    A code is the channels' levels as digits, the first channel's the lowest. Nothing is learned: `vectors` [K, D] lists
    the K = prod(levels) points, channels from -1 to 1.
    """

    remedy = "give it fewer levels"  # for collapse
    vectors: Tensor
    levels: Tensor
    base: Tensor

    def __init__(self, levels: list[int]):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        base = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("base", base, persistent=False)
        digits = torch.arange(math.prod(levels))[:, None] // base % self.levels
        self.register_buffer("vectors", self.scaled(digits.float()), persistent=False)

    def scaled(self, digits: Tensor) -> Tensor:
        """Levels 0 … L - 1 -> -1 … 1, L // 2 being 0 as in the paper."""
        half = self.levels // 2
        return (digits - half) / half

    def digits(self, rows: Tensor) -> Tensor:
        """float [..., D] -> unrounded levels: tanh into the open range around 0 … L - 1; channels with an even number
        of levels are shifted by half a level, so that 0 is one of them."""
        eps = 1e-3
        reach = (self.levels - 1) * (1 + eps) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(rows + torch.atanh(offset / reach)) * reach - offset
        return bounded + self.levels // 2

    def placed(self, rows: Tensor) -> Tensor:
        """float [..., D] -> float32 [..., D] among the points: bounded and scaled, not yet rounded."""
        return self.scaled(self.digits(rows.float()))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float [..., D] -> the points they are rounded to, codes [...], no loss; the gradient passes the rounding."""
        digits = self.digits(rows.float())
        points = self.scaled(digits + (digits.round() - digits).detach())
        return points, self.assign(rows), rows.new_zeros(())

    def assign(self, rows: Tensor) -> Tensor:
        """float [..., D] -> int64 [...]."""
        return (self.digits(rows.float()).round().long() * self.base).sum(-1)


class Vq(nn.Module):
    """Plain vector quantisation (van den Oord et al. 2017): nearest vector, straight-through gradient.

    Loss = ||sg(z) - c||² (moves the codes) + commitment * ||z - sg(c)||² (holds the encoder).
    """

    remedy = "see that its section says reanchor: true, lower dim or num_codes, or raise commitment"  # for collapse

    def __init__(self, num_codes: int, dim: int, commitment: float):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))
        self.commitment = commitment

    def assign(self, rows: Tensor) -> Tensor:
        """float [..., D] -> int64 [...]."""
        return nearest(rows.detach().float().flatten(0, -2), self.vectors.detach()).view(rows.shape[:-1])

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float [..., D] -> quantised rows, codes [...], loss."""
        rows = rows.float()
        codes = self.assign(rows)
        chosen = F.embedding(codes, self.vectors)
        loss = F.mse_loss(chosen, rows.detach()) + self.commitment * F.mse_loss(rows, chosen.detach())
        return rows + (chosen - rows).detach(), codes, loss
