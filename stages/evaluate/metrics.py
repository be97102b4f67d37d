"""Metrics of image pairs and image sets: SSIM, KID, IS, precision and recall."""

from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from stages.evaluate.neighbors import CHUNK, OTHERS, knn_radii

KID_SUBSETS = 100
IS_SPLITS = 10
SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
SSIM_IMAGES = 50  # at once


def too_few(images: int, reference: int, kid_subset_size: int, neighbors: int) -> dict[str, str]:
    """{<metric>_skipped: why} for the metrics that so many images, against so many of a reference, do not permit."""
    fewest = min(images, reference)
    needed = {  # metric -> images needed, those there, what needs them
        "gfid": (2, fewest, "a covariance"),
        "gkid": (kid_subset_size, fewest, "generation.kid_subset_size"),
        "is": (IS_SPLITS, images, "the splits"),
        "precision_recall": (neighbors + 1, fewest, "reference.prc_neighbors + 1"),
    }
    why = {name: f"{least} images needed ({what}), {there} there" for name, (least, there, what) in needed.items()}
    return {f"{name}_skipped": why[name] for name, (least, there, _) in needed.items() if there < least}


def kid(features: Tensor, reference: Tensor, subset_size: int, seed: int) -> float:
    """Mean squared MMD over 100 subsets (Bińkowski et al. 2018); around 0 for independent sets of one distribution."""
    settings = {"kid_subsets": KID_SUBSETS, "kid_subset_size": subset_size, "rng_seed": seed, "verbose": False}
    return kid_features_to_metric(features, reference, **settings)[KEY_METRIC_KID_MEAN]


def inception_score(logits: Tensor, seed: int) -> float:
    """exp of the mean KL from class probabilities to their mean, the mean of 10 splits (Salimans et al. 2016).

    From 1 to the number of classes; less where splits are small: 10 classes in random splits of 50 reach 9.2.
    """
    return isc_features_to_metric(logits, splits=IS_SPLITS, rng_seed=seed)[KEY_METRIC_ISC_MEAN]


def precision_recall(
    features: Tensor, reference: Tensor, reference_radii: Tensor, neighbors: int
) -> tuple[float, float]:
    """Share of samples inside the reference's k-NN radii, and the reverse (Kynkäänniemi et al. 2019, equation 2).

    float [M, D], [R, D], [R]. Equal to torch-fidelity's, which measures the radii of the reference anew for every set.
    """
    radii = knn_radii(features, neighbors)
    precise, covered = torch.zeros(len(features), dtype=torch.bool), torch.zeros(len(reference), dtype=torch.bool)
    for start, other in product(range(0, len(reference), CHUNK), range(0, len(features), OTHERS)):
        rows, columns = slice(start, start + CHUNK), slice(other, other + OTHERS)
        distances = torch.cdist(reference[rows], features[columns])
        precise[columns] |= (distances <= reference_radii[rows, None]).any(0)
        covered[rows] |= (distances <= radii[columns]).any(1)
    return precise.float().mean().item(), covered.float().mean().item()


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], mean over windows and channels (Wang et al. 2004, equation 13).

    Gaussian windows of 11 px (less in smaller images), sigma 1.5 px, that lie inside the image; K1 .01, K2 .03.
    """
    runs = (torch.from_numpy(of).permute(0, 3, 1, 2).split(SSIM_IMAGES) for of in (images, others))
    return torch.cat([_ssim_of_run(x.double(), y.double()) for x, y in zip(*runs, strict=True)]).numpy()


def _ssim_of_run(x: Tensor, y: Tensor) -> Tensor:
    """float64 [B, 3, H, W] twice -> float64 [B]; all at once, in some ten times their memory."""
    down, across = (_windows(size) for size in x.shape[2:])
    mean_x, mean_y, xx, yy, xy = (down @ plane @ across.T for plane in (x, y, x * x, y * y, x * y))
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (luminance * structure).mean((1, 2, 3))


def _windows(size: int) -> Tensor:
    """float64 [positions, size]: a Gaussian of sum 1 at every position along a line of `size` pixels where it fits.

    A product with it is a convolution; torch's own, in float64, takes 20 times as long.
    """
    side = min(SSIM_WINDOW_PX, (size - 1) // 2 * 2 + 1)
    line = torch.exp(-((torch.arange(side, dtype=torch.float64) - side // 2) ** 2) / (2 * SSIM_SIGMA_PX**2))
    offset = torch.arange(size)[None] - torch.arange(size - side + 1)[:, None]
    return torch.where((offset >= 0) & (offset < side), (line / line.sum())[offset.clamp(0, side - 1)], 0.0)
