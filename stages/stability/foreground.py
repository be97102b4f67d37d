"""Which positions of the code grid show something: by masks where every image used has one, else by local variance.

One rule for all images, because figures of the two are of different positions.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d


def by_variance(pixels: Tensor, grid: int, threshold: float) -> Tensor:
    """float [B, 3, H, W] -> bool [B, N]: patches in which the variance, averaged over channels, exceeds `threshold`.

    On grids that do not divide the image, patches overlap by a pixel (torch's adaptive pooling).
    """
    centred = pixels - pixels.mean((2, 3), keepdim=True)  # or squares of nearly equal numbers would cancel
    variance = adaptive_avg_pool2d(centred.square(), grid) - adaptive_avg_pool2d(centred, grid).square()
    return (variance.mean(1) > threshold).flatten(1)


def by_mask(masks: Tensor, grid: int) -> Tensor:
    """bool [B, H, W] -> bool [B, N]: patches in which the mask covers any pixel."""
    return (adaptive_max_pool2d(masks.float(), grid) > 0).flatten(1)
