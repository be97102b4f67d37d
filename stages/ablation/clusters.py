"""Principal components and k-means of stored features, without the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PART_ROWS = 2**16  # rows in float64 at once


@dataclass(frozen=True)
class Pca:
    """Mean float64 [D] of the rows it was fitted on and `axes` float64 [D, d], orthonormal, by falling variance."""

    mean: np.ndarray
    axes: np.ndarray

    def project(self, rows: np.ndarray) -> np.ndarray:
        """float32 [..., D] -> float32 [..., d]."""
        import numpy as np

        return (rows - self.mean.astype(np.float32)) @ self.axes.astype(np.float32)


def fit_pca(rows: np.ndarray, dim: int) -> Pca:
    """The leading `dim` components of float32 [M, D]; 0: all dimensions as they are, only centred."""
    import numpy as np

    mean = rows.mean(0, dtype=np.float64)
    if not dim:
        return Pca(mean, np.eye(rows.shape[1]))
    covariance = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), PART_ROWS):
        centred = rows[start : start + PART_ROWS] - mean
        covariance += centred.T @ centred
    return Pca(mean, np.linalg.eigh(covariance)[1][:, ::-1][:, :dim])


def fit_index(rows: np.ndarray, num_codes: int, iterations: int, seed: int, on_gpu: bool) -> Any:
    """k-means of float32 [M, d] from k-means++; a faiss index over the float32 [num_codes, d] code vectors."""
    import faiss

    kmeans: Any = faiss.Kmeans(
        rows.shape[1], num_codes, niter=iterations, seed=seed, gpu=on_gpu and faiss.get_num_gpus() > 0,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1, max_points_per_centroid=len(rows),
    )  # fmt: skip
    kmeans.train(rows)
    return kmeans.index


def quantise(index: Any, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [M, N, d] -> codes int64 [M, N] and the sum of squared distances to their vectors."""
    import numpy as np

    distances, codes = index.search(np.ascontiguousarray(rows.reshape(-1, rows.shape[-1])), 1)
    return codes.reshape(rows.shape[:2]), float(distances.sum(dtype=np.float64))


def errors(rows: np.ndarray, pca: Pca, squared_error: float) -> dict[str, float]:
    """`quantisation_error` = 1 - the share of the variance of float32 [M, N, D] that the codes explain, all dimensions
    counted; `projection_error`: the part of it that the principal components had left out before.

    Both are relative to the rows' squared distances from the train mean. Since the axes are orthonormal, what was left
    out and the distances within the components (`squared_error`) add up.
    """
    import numpy as np

    total, kept = 0.0, 0.0
    for part in rows:
        total += float(np.square(part - pca.mean).sum())
        kept += float(np.square(pca.project(part), dtype=np.float64).sum())
    lost = max(0.0, total - kept)
    return {"quantisation_error": (lost + squared_error) / total, "projection_error": lost / total}
