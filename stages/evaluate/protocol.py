"""The protocol of metrics: how they were measured, so that they are never compared with those of another protocol.

A list of entries, one per group of metrics in metrics.json (`of` names the group). The report compares two rows only
if their entries agree in everything except `of`, `sampler` and `seeds`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.metrics import count_classes
from stages.data.reader import image_facts
from stages.evaluate.extractors import FeatureExtractor

FULL_RANK = "full rank"


def describe(
    of: str,
    reference: str,
    images: Path,
    labels: np.ndarray,
    reference_labels: np.ndarray,
    extractors: dict[str, FeatureExtractor],
    **settings: Any,
) -> dict[str, Any]:
    """The protocol of images with `labels` int64 [count], compared with the split `reference` of the artifact `images`.

    `reference_labels` int64 [R] are those of the reference: FID and its kin tell classes of other proportions apart.
    They are empty where the reference is a mean and a covariance alone.
    `settings` are further facts that must agree before metrics are compared.
    """
    facts, fewest = image_facts(images), min(len(labels), len(reference_labels) or len(labels))
    return {
        "of": of,
        "reference": reference,
        "reference_digest": artifact.digest(images)[:12],
        "reference_count": len(reference_labels),
        "reference_per_class": per_class(reference_labels),
        "crop": f"{facts['source']}, {facts['img_px']} px square, as the data stage made them",
        "count": len(labels),
        "per_class": per_class(labels),
        "proportions_apart": proportions_apart(labels, reference_labels),
        "extractors": {name: describe_extractor(one.facts, fewest) for name, one in extractors.items()},
        "evaluator": f"KID, IS: torch-fidelity {version('torch-fidelity')}; others: semtok",
        **settings,
    }


def per_class(labels: np.ndarray) -> dict[str, int] | None:
    """How many classes occur, and fewest and most images of one of them; None without classes."""
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return {"classes": len(counts), "min": int(counts.min()), "max": int(counts.max())} if len(counts) else None


def proportions_apart(labels: np.ndarray, others: np.ndarray) -> float | None:
    """Total variation distance of the class proportions, from 0 to 1 (no common class); None without classes."""
    if not len(others) or min(labels.min(), others.min()) < 0:
        return None
    shares = [count_classes(one, 1 + max(labels.max(), others.max())) / len(one) for one in (labels, others)]
    return round(float(abs(shares[0] - shares[1]).sum()) / 2, 3)


def describe_extractor(facts: dict[str, Any], count: int) -> dict[str, Any]:
    """An extractor's facts, with a warning where there are too few images for its covariance."""
    singular = f"singular: {count} images span at most {count - 1} of {facts['dim']} dims"
    return {**facts, "covariance": FULL_RANK if count > facts["dim"] else singular}
