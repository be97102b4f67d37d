"""How like images are: structural similarity of pairs, and the Fréchet distance of sets in a feature space."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], mean over windows and channels (Wang et al. 2004).

    Gaussian windows of 11 px (less in smaller images), sigma 1.5 px, that lie inside the image; K1 .01, K2 .03.
    """
    import torch
    from torch.nn import functional as F

    side = min(SSIM_WINDOW_PX, (min(images.shape[1:3]) - 1) // 2 * 2 + 1)
    x, y = (torch.from_numpy(i).permute(0, 3, 1, 2).flatten(0, 1)[:, None].double() for i in (images, others))
    window = gaussian(side)[None, None]
    mean_x, mean_y, xx, yy, xy = (F.conv2d(plane, window) for plane in (x, y, x * x, y * y, x * y))
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    shape = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (light * shape).mean((1, 2, 3)).view(-1, 3).mean(1).numpy()


def gaussian(side: int) -> Tensor:
    """float64 [side, side], sum 1."""
    import torch

    line = torch.exp(-((torch.arange(side, dtype=torch.float64) - side // 2) ** 2) / (2 * SSIM_SIGMA_PX**2))
    return torch.outer(line, line) / line.sum() ** 2


def fid(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to float [M, D] and [R, D]; torch-fidelity's own code."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(feats.double()) for feats in (features, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
