"""The protocol of metrics: how they were measured, so that they are never compared with those of another protocol.

A list of entries, one per group of metrics in metrics.json (`of` names the group). The report compares two rows only
if their entries agree in everything except `of`, `sampler` and `seeds`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.data.reader import image_facts
from stages.evaluate.extractors import FeatureExtractor


def describe(
    of: str,
    reference: str,
    images: Path,
    labels: np.ndarray,
    reference_count: int,
    extractors: dict[str, FeatureExtractor],
    **settings: Any,
) -> dict[str, Any]:
    """The protocol of images with `labels` int64 [count], compared with the split `reference` of the artifact `images`.

    `settings` are further facts that must agree before metrics are compared.
    """
    facts, fewest = image_facts(images), min(len(labels), reference_count)
    return {
        "of": of,
        "reference": reference,
        "reference_digest": artifact.digest(images)[:12],
        "reference_count": reference_count,
        "crop": f"{facts['source']}, {facts['img_px']} px square, as the data stage made them",
        "count": len(labels),
        "per_class": per_class(labels),
        "extractors": {name: describe_extractor(one.facts, fewest) for name, one in extractors.items()},
        "evaluator": f"torch-fidelity {version('torch-fidelity')}",
        **settings,
    }


def per_class(labels: np.ndarray) -> dict[str, int] | None:
    """Fewest and most images per class among those that occur; None without classes."""
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return {"min": int(counts.min()), "max": int(counts.max())} if len(counts) else None


def describe_extractor(facts: dict[str, Any], count: int) -> dict[str, Any]:
    """An extractor's facts, with a warning where there are too few images for its covariance."""
    singular = f"singular: {count} images span at most {count - 1} of {facts['dim']} dims"
    return {**facts, "covariance": "full rank" if count > facts["dim"] else singular}
