"""How a number was made, so that it is never compared with one that was made otherwise.

A list of entries, one for each group of figures in metrics.json (`of` names the group). The report compares two rows
only if their entries agree in everything but `of`, `sampler` and `seeds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from stages.evaluate.bench import Bench


def describe(of: str, reference: str, count: int, labels: np.ndarray, bench: Bench, **more: Any) -> dict[str, Any]:
    """The protocol of `count` images with `labels` int64 [count], against the split `reference`."""
    from importlib.metadata import version

    reference_count = count if reference == "val" else len(bench.reference)
    fewest = min(count, reference_count)
    return {
        "of": of,
        "reference": reference,
        "reference_digest": bench.images_digest[:12],
        "reference_count": reference_count,
        "crop": f"{bench.facts['source']}, {bench.facts['img_px']} px square, as the data stage made them",
        "count": count,
        "per_class": per_class(labels),
        "extractors": {name: extractor(space.facts, fewest) for name, space in bench.spaces.items()},
        "kid_subset_size": bench.params.kid_subset_size,
        "prc_neighbours": bench.params.prc_neighbours,
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
