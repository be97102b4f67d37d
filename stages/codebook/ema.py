"""Unit code vectors that follow the mean of their rows without a gradient (VQ-KD, Peng et al. 2022; papers, 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.anchor import live_fraction, reanchor, running_share
from stages.codebook.quantise import nearest

KMEANS_ITERATIONS = 10


class EmaVq(nn.Module):
    """Cosine quantiser: `vectors` [K, D] and `share` [K] are buffers, saved with the weights, and get no gradient."""

    vectors: Tensor
    share: Tensor  # running share of rows that choose each code

    def __init__(self, num_codes: int, dim: int, decay: float, anchored: bool):
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(num_codes, dim), dim=-1))
        self.register_buffer("share", torch.zeros(num_codes))
        self.decay, self.anchored = decay, anchored

    def unit_vectors(self) -> Tensor:
        """float [K, D]: an average of codes over steps is shorter than 1, so that it is brought to length first."""
        return F.normalize(self.vectors, dim=-1)

    def forward(self, unit_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows float [..., D] -> their codes' vectors, codes [...], mean (z - sg(c))².

        The gradient of the vectors passes to the rows as it is (straight through). Training moves the codes afterwards.
        """
        vectors = self.unit_vectors()
        codes = nearest(unit_rows.detach().flatten(0, -2), vectors).view(unit_rows.shape[:-1])
        chosen = F.embedding(codes, vectors)
        if self.training:
            self.update(unit_rows.detach().flatten(0, -2), codes.flatten())
        return unit_rows + (chosen - unit_rows).detach(), codes, F.mse_loss(unit_rows, chosen)

    @torch.no_grad()
    def update(self, unit_MD: Tensor, codes_M: Tensor) -> None:
        """One step of the moving average; then, if asked, dead codes go to rows of the batch."""
        self.share = running_share(self.share, codes_M)
        self.vectors = moved(self.vectors, unit_MD, codes_M, self.decay)
        if self.anchored:
            reanchor(self.vectors, self.share, unit_MD)
            self.vectors = F.normalize(self.vectors, dim=-1)

    def live_fraction(self) -> Tensor:
        """Scalar: the part of the codes that are in use."""
        return live_fraction(self.share)

    @torch.no_grad()
    def start_from(self, unit_MD: Tensor) -> None:
        """Place the codes by spherical k-means on the rows [M, D] of a batch, from K of them drawn at random."""
        chosen = torch.randperm(len(unit_MD), device=unit_MD.device)[: len(self.vectors)]
        self.vectors = unit_MD[chosen].clone()
        for _ in range(KMEANS_ITERATIONS):
            self.vectors = moved(self.vectors, unit_MD, nearest(unit_MD, self.vectors), 0.0)


def moved(vectors_KD: Tensor, unit_MD: Tensor, codes_M: Tensor, decay: float) -> Tensor:
    """Unit float [K, D]: norm(decay * c + (1 - decay) * norm(mean of its rows)); codes without rows as they were."""
    sums_KD = torch.zeros_like(vectors_KD).index_add_(0, codes_M, unit_MD)
    hit_K = torch.bincount(codes_M, minlength=len(vectors_KD)) > 0
    average_KD = decay * vectors_KD + (1 - decay) * F.normalize(sums_KD, dim=-1)
    return torch.where(hit_K[:, None], F.normalize(average_KD, dim=-1), vectors_KD)
