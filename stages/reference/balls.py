"""The balls around real images in which samples count as precise, and the reverse (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PRC_BATCH = 1_000  # images at once


def ball_radii(points: Tensor, neighbours: int) -> Tensor:
    """[M, D] -> [M], the distance to the k-th nearest other point."""
    import torch

    nearest = (torch.cdist(part, points).topk(neighbours + 1, largest=False).values for part in points.split(PRC_BATCH))
    return torch.cat([found[:, -1] for found in nearest])
