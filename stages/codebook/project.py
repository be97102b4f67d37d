"""The map of rows before k-means: layers of equal weight, principal components, whitening.

Mean and covariance are accumulated over the train rows a chunk at a time, so that memory does not grow with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.frozen import RowMap
    from stages.codebook.kmeans import Params
    from stages.codebook.rows import Rows

FLOOR = 1e-6  # of the largest variance: a component with less is whitened as if it had this much


def fit_row_map(rows: Rows, params: Params) -> RowMap | None:
    """What `params` ask for, from all train rows; None where rows stay as they are."""
    import numpy as np
    import torch

    from stages.codebook.frozen import RowMap

    side_by_side = len(rows.layout.blocks) // rows.layout.groups
    if side_by_side == 1 and not params.pca_dim and not params.whiten:
        return None
    maps = []
    for group in range(rows.layout.groups):
        mean, covariance = moments(rows, group, params.chunk_vectors)
        maps.append(map_of(mean, covariance, side_by_side, params.pca_dim, params.whiten))
    shift, weight = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*maps, strict=True))
    return RowMap(shift, weight)


def moments(rows: Rows, group: int, chunk_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 mean [D] and covariance [D, D] (divided by M) of a group's train rows as they were made."""
    import numpy as np

    from stages.codebook.rows import regroup

    dim, count = rows.layout.dim, 0
    origin, total, product = np.zeros(dim), np.zeros(dim), np.zeros((dim, dim))
    for chunk in regroup(rows.arrays("train", group), chunk_vectors):
        chunk = chunk.astype(np.float64)
        if not count:
            origin = chunk.mean(0)  # sums around a point near the mean lose no digits
        chunk -= origin
        count, total, product = count + len(chunk), total + chunk.sum(0), product + chunk.T @ chunk
    offset = total / count
    return origin + offset, product / count - np.outer(offset, offset)


def map_of(
    mean: np.ndarray, covariance: np.ndarray, layers: int, pca_dim: int, whiten: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shift [D] and weight, [D] or [D, d]: (row - shift) * weight, or (row - shift) @ weight.

    Each of the `layers` side by side is scaled to a mean variance of 1. Of the result, the `pca_dim` components of
    largest variance v (0: all), each multiplied by v^(-whiten / 2): 0 leaves them, 1 gives all a variance of 1.
    """
    import numpy as np

    variance = np.diag(covariance).reshape(layers, -1).mean(1)
    scale = np.repeat(variance**-0.5 if layers > 1 else np.ones(1), len(mean) // layers)
    if not pca_dim and not whiten:
        return np.zeros_like(mean), scale
    values, vectors = np.linalg.eigh(scale[:, None] * covariance * scale)
    values, vectors = values[::-1], vectors[:, ::-1]
    if pca_dim:
        values, vectors = values[:pca_dim], vectors[:, :pca_dim]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    vectors = vectors * np.sign(largest)  # a component's sign is arbitrary: its largest entry is positive
    return mean, scale[:, None] * vectors * np.maximum(values, FLOOR * values[0]) ** (-whiten / 2)
