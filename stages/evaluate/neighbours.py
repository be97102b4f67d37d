"""Are samples copies? Distances to the nearest training image, beside those of real images the training never saw.

Copies of training images that are not compared with (reference.max_images) are not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CHUNK = 1_000  # rows at once
SHORTLIST = 8


def nearest(rows: Tensor, reference: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of float [M, D] to float [R, D]: float64 [M] Euclidean distances and int64 [M] places of the nearest.

    Matrix products find 8 candidates each, 20 times as fast as differences; but they round small distances, those of
    copies, away, so the differences decide between the 8. Among equals the first one is the nearest.
    """
    import torch

    found = [_nearest_chunk(part, reference) for part in rows.split(CHUNK)]
    distances, places = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return distances.astype("float64"), places


def _nearest_chunk(rows: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    rough = torch.cdist(rows, reference, compute_mode="use_mm_for_euclid_dist")
    listed = rough.topk(min(SHORTLIST, len(reference)), largest=False).indices.sort(1).values
    best = (reference[listed] - rows[:, None]).norm(dim=2).min(1)
    return best.values, listed.gather(1, best.indices[:, None])[:, 0]


def distance_figures(distances: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Quantiles of distances to train, and the share nearer than the nearest 1 % of real val images (`val`).

    Of fresh real images it is 0.01 in expectation; 1 / (M + 1) where there are but M < 99 of `val`.
    """
    import numpy as np

    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    near = float((distances < np.quantile(val, 0.01, method="weibull")).mean())
    return {"median": float(median), "p01": float(low), "p99": float(high), "near_copies": near}
