"""How a number was made, so that it is never compared with one that was made otherwise.

A list of entries, one for each group of figures in metrics.json (`of` names the group). The report compares two rows
only if their entries agree in everything but `of`, `sampler` and `seeds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from stages.core.spaces import Space


def describe(
    of: str, reference: str, facts: dict[str, Any], digest: str, labels: np.ndarray, reference_count: int,
    spaces: dict[str, Space], **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The protocol of as many images as `labels` (int64) has, against the split `reference`.

    `facts` and `digest` are those of the images artefact; `more` is what else makes figures incomparable.
    """
    from importlib.metadata import version

    fewest = min(len(labels), reference_count)
    return {
        "of": of,
        "reference": reference,
        "reference_digest": digest[:12],
        "reference_count": reference_count,
        "crop": f"{facts['source']}, {facts['img_px']} px square, as the data stage made them",
        "count": len(labels),
        "per_class": per_class(labels),
        "extractors": {name: extractor(space.facts, fewest) for name, space in spaces.items()},
        "evaluator": f"torch-fidelity {version('torch-fidelity')}",
        **more,
    }


def per_class(labels: np.ndarray) -> dict[str, int] | None:
    """Fewest and most images of one class among those that occur; None without classes."""
    import numpy as np

    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return {"min": int(counts.min()), "max": int(counts.max())} if len(counts) else None


def extractor(facts: dict[str, Any], count: int) -> dict[str, Any]:
    """An extractor's facts, with a warning where there are too few images for its covariance."""
    singular = f"singular: {count} images span at most {count - 1} of {facts['dim']} dims"
    return {**facts, "covariance": "full rank" if count > facts["dim"] else singular}
