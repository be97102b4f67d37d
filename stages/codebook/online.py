"""Code vectors that learn online: batch by batch, by gradient, dead ones put back among the rows (papers, 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.anchor import live_fraction, reanchor, running_share
from stages.codebook.quantise import nearest


class OnlineClusters(nn.Module):
    """K code vectors for rows compared by cosine; all rows are brought to unit length first.

    Each code is drawn to the mean of its unit rows, whose direction is the centre that spherical k-means takes.
    """

    share: Tensor  # float [K]: running share of rows that choose each code; from 0, so that codes start as dead

    def __init__(self, num_codes: int, dim: int, anchored: bool):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))
        self.register_buffer("share", torch.zeros(num_codes))
        self.anchored = anchored

    def assign(self, unit_MD: Tensor) -> Tensor:
        """Unit rows float [M, D] -> int64 [M]: the code of the largest cosine."""
        return nearest(unit_MD, self.unit_vectors())

    def unit_vectors(self) -> Tensor:
        """float [K, D]: the codes as they are stored."""
        return F.normalize(self.vectors.detach(), dim=-1)

    def forward(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """float [..., D] -> loss = mean (c - sg(x))², {"cosine_loss", "live_fraction"}. Training moves the codes."""
        unit_MD = F.normalize(rows.detach().float().flatten(0, -2), dim=-1)
        codes_M = self.assign(unit_MD)
        chosen_MD = F.embedding(codes_M, self.vectors)
        cosine = F.cosine_similarity(chosen_MD.detach(), unit_MD, dim=-1)
        if self.training:
            self.share = running_share(self.share, codes_M)
            if self.anchored:
                reanchor(self.vectors, self.share, unit_MD)
        scalars = {"cosine_loss": (1 - cosine).mean(), "live_fraction": live_fraction(self.share)}
        return F.mse_loss(chosen_MD, unit_MD), scalars
