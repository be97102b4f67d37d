"""Metrics of one set of images, such as the samples of one seed, against real ones, and their protocol."""

import sys
from typing import Any

import numpy as np

from stages.evaluate import metrics
from stages.evaluate.compared import MEAN_ALONE
from stages.evaluate.evaluator import Evaluator
from stages.evaluate.fid_spread import fid_by_count, fid_std
from stages.evaluate.frechet import fid_to
from stages.evaluate.image_features import ImageFeatures
from stages.evaluate.params import GenerationParams

SKIPPED_AS = {"precision": "precision_recall_skipped", "recall": "precision_recall_skipped",
              "density": "density_coverage_skipped", "coverage": "density_coverage_skipped"}  # fmt: skip


def set_metrics(
    images: ImageFeatures, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams
) -> dict[str, float]:
    """The metrics of one set of images against real ones, without those that `skipped` names."""
    compared, config, found = evaluator.reference.compared, evaluator.reference.config, {}
    neighbors, missing = (config["prc_neighbors"], config["density_neighbors"]), skipped(labels, evaluator, params)
    if "class_accuracy_skipped" not in missing:
        found["class_accuracy"] = float(images.classified_as(labels).mean())
    for name, features in images.features.items():
        real = compared.features.get(name)
        if name in compared.gaussians and "gfid_skipped" not in missing:
            found[f"gfid[{name}]"] = fid_to(features, compared.gaussians[name])
        if real is not None and "gkid_skipped" not in missing:
            found[f"gkid[{name}]"] = metrics.kid(features, real, params.kid_subset_size, params.seed)
        if name in images.logits and "is_skipped" not in missing:
            found[f"is[{name}]"] = metrics.inception_score(images.logits[name], params.seed)
        if real is not None:
            near = metrics.neighborhood_metrics(features, real, compared.radii[name], *neighbors)
            found |= {f"{one}[{name}]": value for one, value in near.items() if SKIPPED_AS[one] not in missing}
    return found


def fids_by_count(
    images: ImageFeatures, whole: dict[str, float], evaluator: Evaluator, params: GenerationParams
) -> dict[str, dict[int, float]]:
    """{extractor: {number of images: FID}}; empty where `fid_counts` is 0 or there are too few images.

    `whole`: the metrics of all images.
    """
    if not 2 <= params.fid_counts < len(images):
        return {}
    return {
        name: fid_by_count(images.features[name], of, whole[f"gfid[{name}]"], params.fid_counts, params.seed)
        for name, of in evaluator.reference.compared.gaussians.items()
    }


def fid_stds(images: ImageFeatures, evaluator: Evaluator, params: GenerationParams) -> dict[str, float]:
    """Spread of FID over the images of a single set, which has none between seeds."""
    if not params.bootstrap_draws or len(images) < 2:
        return {}
    gaussians, settings = evaluator.reference.compared.gaussians, (params.bootstrap_draws, params.seed)
    return {f"gfid[{name}]_std": fid_std(images.features[name], of, *settings) for name, of in gaussians.items()}


def skipped(labels: np.ndarray, evaluator: Evaluator, params: GenerationParams) -> dict[str, str]:
    """{<metric>_skipped: why} of the metrics that these images, int64 [num] labels, do not permit."""
    compared, config = evaluator.reference.compared, evaluator.reference.config
    counts, neighbors = (len(labels), len(compared.labels)), (config["prc_neighbors"], config["density_neighbors"])
    found = metrics.too_few(len(labels), counts[1] or sys.maxsize, params.kid_subset_size, *neighbors)
    if not compared.features:
        found |= {f"{name}_skipped": MEAN_ALONE for name in ("gkid", "precision_recall", "density_coverage")}
    if not evaluator.can_classify(labels):
        found["class_accuracy_skipped"] = "drawn without a class"
    if "classifier" not in evaluator.extractors:
        found["class_accuracy_skipped"] = "no classes"
        if not evaluator.gives_logits:
            found["is_skipped"] = "no classes to train a classifier on"
    return found


def describe(of: str, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams, **how: Any) -> dict[str, Any]:
    """The protocol of one group of metrics."""
    how |= {"kid_subset_size": params.kid_subset_size, "seed": params.seed}
    return evaluator.describe_samples(of, labels, **how)
