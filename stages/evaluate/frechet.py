"""Fréchet distance between the Gaussians fitted to two sets of features (FID; Heusel et al. 2017, equation 6)."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, eigvalsh, get_blas_funcs
from threadpoolctl import threadpool_limits
from torch import Tensor

PART = 2_048  # images at once in float64
MANY_DIMS = 1_000  # from here on more threads make the eigenvalues of a matrix faster; below, slower by far

Matrix = NDArray[np.float64]


def fid(features: Tensor, reference: Tensor) -> float:
    """The distance between float [M, D] and [R, D], M and R at least 2."""
    with threadpool_limits(1 if features.shape[1] < MANY_DIMS else None, "blas"):
        return distance(*gaussian(features), *gaussian(reference))


def gaussian(features: Tensor) -> tuple[Matrix, Matrix]:
    """Mean [D] and unbiased covariance [D, D] of float [M, D]; sums are float64, a part of the images at a time."""
    count = len(features)
    mean = (sum(part.double().sum(0) for part in features.split(PART)) / count).numpy()
    scatter = sum((part := rows.double().numpy() - mean).T @ part for rows in features.split(PART))  # half, by NumPy
    return mean, scatter / (count - 1)


def distance(mean: Matrix, covariance: Matrix, other_mean: Matrix, other_covariance: Matrix) -> float:
    """|m - n|² + tr(S + T - 2 (S T)^½).

    With S = L Lᵀ the eigenvalues of S T are those of the symmetric Lᵀ T L, and the trace is the sum of their roots.
    """
    trace = np.sqrt(eigenvalues(rooted(covariance, other_covariance)).clip(0)).sum()
    means = np.square(mean - other_mean).sum()
    return float(means + np.trace(covariance) + np.trace(other_covariance) - 2 * trace)


def eigenvalues(symmetric: Matrix) -> NDArray[np.float64]:
    """[D], ascending; of a large matrix by torch, which takes half of SciPy's time, or less."""
    if len(symmetric) < MANY_DIMS:
        return eigvalsh(symmetric, overwrite_a=True, check_finite=False)
    return torch.linalg.eigvalsh(torch.from_numpy(symmetric)).numpy()


def rooted(covariance: Matrix, other: Matrix) -> Matrix:
    """Lᵀ T L with S = L Lᵀ by Cholesky, or by eigenvectors where S is singular, as of fewer images than dimensions."""
    try:
        factor = cholesky(covariance, lower=True)
    except np.linalg.LinAlgError:
        values, vectors = eigh(covariance)
        factor = vectors * np.sqrt(values.clip(0))
        return factor.T @ other @ factor
    dtrmm = get_blas_funcs("trmm", (factor, other))
    right = dtrmm(1.0, factor, other, side=1, lower=1)  # half the work of a product with a full matrix
    return dtrmm(1.0, factor, right, lower=1, trans_a=1)
