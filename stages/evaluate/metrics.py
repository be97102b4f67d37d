"""Figures of sets of images beside the Fréchet distance of stages/core/likeness.py; torch-fidelity's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KID_SUBSETS = 100
IS_SPLITS = 10
PRC_BATCH = 10_000  # images at once in precision and recall


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
