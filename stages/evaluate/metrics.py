"""Figures of sets of images beside the Fréchet distance of stages/core/likeness.py: torch-fidelity's, or equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.reference.balls import PRC_BATCH, ball_radii

if TYPE_CHECKING:
    from torch import Tensor

KID_SUBSETS = 100
IS_SPLITS = 10


def kid(features: Tensor, reference: Tensor, subset_size: int, seed: int) -> float:
    """Mean squared MMD over 100 subsets; around 0 for independent sets of equal distribution."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    settings = {"kid_subsets": KID_SUBSETS, "kid_subset_size": subset_size, "rng_seed": seed, "verbose": False}
    return kid_features_to_metric(features, reference, **settings)[KEY_METRIC_KID_MEAN]


def precision_recall(
    features: Tensor, reference: Tensor, reference_radii: Tensor, neighbours: int
) -> tuple[float, float]:
    """Share of samples inside the reference's k-nearest-neighbour balls, and the reverse (Kynkäänniemi et al. 2019).

    The same as torch-fidelity's, which measures the reference's balls again for every set of samples.
    """
    import torch

    radii = ball_radii(features, neighbours)
    real, covered = torch.zeros(len(features), dtype=torch.bool), torch.zeros(len(reference), dtype=torch.bool)
    for start in range(0, len(reference), PRC_BATCH):
        rows = slice(start, start + PRC_BATCH)
        distances = torch.cdist(reference[rows], features)
        real |= (distances <= reference_radii[rows, None]).any(0)
        covered[rows] = (distances <= radii).any(1)
    return real.float().mean().item(), covered.float().mean().item()


def inception_score(logits: Tensor, seed: int) -> float:
    """exp of the mean KL from class probabilities to their mean, the mean of 10 splits.

    From 1 to the number of classes; less where splits are small: 10 classes in random splits of 50 reach 9.2.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return isc_features_to_metric(logits, splits=IS_SPLITS, rng_seed=seed)[KEY_METRIC_ISC_MEAN]
