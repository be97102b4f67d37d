"""How like images are: structural similarity of pairs, and the Fréchet distance of sets in a feature space."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
SSIM_IMAGES = 50  # at once


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], mean over windows and channels (Wang et al. 2004).

    Gaussian windows of 11 px (less in smaller images), sigma 1.5 px, that lie inside the image; K1 .01, K2 .03.
    """
    import torch

    runs = (torch.from_numpy(of).permute(0, 3, 1, 2).split(SSIM_IMAGES) for of in (images, others))
    return torch.cat([ssim_of_run(x.double(), y.double()) for x, y in zip(*runs, strict=True)]).numpy()


def ssim_of_run(x: Tensor, y: Tensor) -> Tensor:
    """float64 [B, 3, H, W] twice -> float64 [B]; all at once, in some ten times their memory."""
    down, across = (windows(size) for size in x.shape[2:])
    mean_x, mean_y, xx, yy, xy = (down @ plane @ across.T for plane in (x, y, x * x, y * y, x * y))
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    shape = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (light * shape).mean((1, 2, 3))


def windows(size: int) -> Tensor:
    """float64 [places, size]: a Gaussian of sum 1 at every place along a line of `size` pixels where it fits.

    A product with it is a convolution; torch's own, in float64, takes 20 times as long.
    """
    import torch

    side = min(SSIM_WINDOW_PX, (size - 1) // 2 * 2 + 1)
    line = torch.exp(-((torch.arange(side, dtype=torch.float64) - side // 2) ** 2) / (2 * SSIM_SIGMA_PX**2))
    offset = torch.arange(size)[None] - torch.arange(size - side + 1)[:, None]
    return torch.where((offset >= 0) & (offset < side), (line / line.sum())[offset.clamp(0, side - 1)], 0.0)


def fid(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to float [M, D] and [R, D]; torch-fidelity's own code.

    Eigenvalues of small matrices are faster on one thread, by far where others use the cores: 8 ms instead of 1 s.
    """
    from threadpoolctl import threadpool_limits
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    with threadpool_limits(1 if features.shape[1] < 1000 else None, "blas"):
        statistics = [fid_features_to_statistics(feats.double()) for feats in (features, reference)]
        return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
