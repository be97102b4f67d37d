"""Image quality figures as pure functions; FID, KID, IS and precision/recall are torch-fidelity's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
KID_SUBSETS = 100
IS_SPLITS = 10
PRC_BATCH = 10_000  # images at once in precision and recall


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
    """Fréchet distance of the Gaussians fitted to float [M, D] and [R, D]."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(feats.double()) for feats in (features, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kid(features: Tensor, reference: Tensor, subset_size: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the squared MMD over 100 subsets; slightly negative for equal distributions."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    settings = {"kid_subsets": KID_SUBSETS, "kid_subset_size": subset_size, "rng_seed": seed, "verbose": False}
    scores = kid_features_to_metric(features, reference, **settings)
    return scores[KEY_METRIC_KID_MEAN], scores[KEY_METRIC_KID_STD]


def precision_recall(features: Tensor, reference: Tensor, neighbours: int) -> tuple[float, float]:
    """Share of samples inside the reference's k-nearest-neighbour balls, and the reverse (Kynkäänniemi et al. 2019)."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    settings = {"prc_neighborhood": neighbours, "prc_batch_size": PRC_BATCH, "save_cpu_ram": True, "verbose": False}
    scores = prc_features_to_metric(features, reference, **settings)
    return scores[KEY_METRIC_PRECISION], scores[KEY_METRIC_RECALL]


def inception_score(logits: Tensor, seed: int) -> float:
    """exp of the mean KL from class probabilities to their mean, 10 splits; from 1 to the number of classes."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return isc_features_to_metric(logits, splits=IS_SPLITS, rng_seed=seed)[KEY_METRIC_ISC_MEAN]
