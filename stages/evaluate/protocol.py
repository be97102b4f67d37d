"""How the figures of an evaluation were made (stages/core/protocol.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.core import protocol

if TYPE_CHECKING:
    import numpy as np

    from stages.evaluate.bench import Bench


def describe(of: str, reference: str, labels: np.ndarray, bench: Bench, **more: Any) -> dict[str, Any]:
    """The protocol of images with `labels` int64 [count], against the split `reference`."""
    reference_count = len(labels) if reference == "val" else len(bench.reference.index)
    chosen = bench.reference.config
    settings = {"reference_seed": chosen["seed"], **{key: chosen[key] for key in ("prc_neighbours", "pixel_px")}}
    settings |= {key: getattr(bench.params, key) for key in ("kid_subset_size", "seed")}
    facts, digest = bench.facts, bench.images_digest
    return protocol.describe(of, reference, facts, digest, labels, reference_count, bench.spaces, **settings, **more)
