"""Are samples copies? Distances to the nearest training image, beside those of real images the training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CHUNK = 4096


def nearest(rows: Tensor, reference: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of float [M, D] to float [R, D]: float64 [M] Euclidean distances and int64 [M] places of the nearest."""
    import torch

    found = [_nearest_chunk(part, reference) for part in rows.split(CHUNK)]
    distances, places = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return distances.astype("float64"), places


def _nearest_chunk(rows: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Exact distances: the fast matrix-product form of cdist loses the small ones, which are those of copies."""
    import torch

    best, place = torch.full((len(rows),), torch.inf), torch.zeros(len(rows), dtype=torch.int64)
    for start in range(0, len(reference), CHUNK):
        part = torch.cdist(rows, reference[start : start + CHUNK], compute_mode="donot_use_mm_for_euclid_dist").min(1)
        place = torch.where(part.values < best, part.indices + start, place)
        best = torch.minimum(best, part.values)
    return best, place


def distance_figures(distances: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Quantiles of distances to train, and the share nearer than the nearest 1 % of real val images (`val`).

    Fresh real images have a `near_copies` of 0.01.
    """
    import numpy as np

    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    near = float((distances < np.quantile(val, 0.01)).mean())
    return {"median": float(median), "p01": float(low), "p99": float(high), "near_copies": near}
