"""FID against the number of images, its value extrapolated to infinitely many, and its spread over images."""

import numpy as np
from torch import Tensor

from stages.core.metrics import bootstrap_std
from stages.evaluate.frechet import Gaussian, fid_to

LEAST_SHARE = 0.2  # of the images, in the smallest subset


def fid_by_count(features: Tensor, reference: Gaussian, whole: float, counts: int, seed: int) -> dict[int, float]:
    """{number of images: FID} of seeded subsets of float32 [M, D], evenly spaced from a fifth of the images to all.

    `whole`: the FID of all, which is known.
    """
    rng, images = np.random.default_rng(seed), len(features)
    *sizes, _ = np.linspace(max(2, LEAST_SHARE * images), images, counts).astype(int).tolist()
    subsets = {size: np.sort(rng.choice(images, size, replace=False)) for size in sizes}
    return {**{size: fid_to(features, reference, index) for size, index in subsets.items()}, images: whole}


def extrapolated(by_count: dict[int, float]) -> float:
    """FID of infinitely many images: where a line through FID over 1/N meets 0 (Chong & Forsyth 2020).

    FID of N images is too large by a term that is linear in 1/N once N is well above the number of features.
    """
    return float(np.polyfit(1 / np.array([*by_count]), [*by_count.values()], 1)[1])


def fid_std(features: Tensor, reference: Gaussian, draws: int, seed: int) -> float:
    """Bootstrap standard deviation over images of the FID of float32 [M, D]."""
    return bootstrap_std(lambda index: fid_to(features, reference, index), len(features), draws, seed)
