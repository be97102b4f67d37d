"""Fréchet distance between the Gaussians fitted to two sets of features (FID; Heusel et al. 2017, equation 6)."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, eigvalsh, get_blas_funcs
from threadpoolctl import threadpool_limits

from stages.evaluate.rows import Rows

PART = 2_048  # images at once in float64
MANY_DIMS = 1_000  # from here on more threads make the eigenvalues of a matrix faster; below, slower by far

Matrix = NDArray[np.float64]


class Gaussian(NamedTuple):
    """Mean [D] and covariance [D, D] of `count` images; 0 where a file of statistics does not say how many."""

    mean: Matrix
    covariance: Matrix
    count: int

    @property
    def singular(self) -> bool:
        """Whether there are too few images for a covariance of full rank."""
        return 0 < self.count <= len(self.mean)


def fid(features: Rows, reference: Rows, index: np.ndarray | None = None) -> float:
    """The distance between float [M, D] and [R, D], M and R at least 2, or between their rows numbered `index`."""
    with few_threads(features.shape[1]):
        return distance(gaussian(features, index), gaussian(reference, index))


def fid_to(features: Rows, reference: Gaussian, index: np.ndarray | None = None) -> float:
    """`fid` to a reference of which mean and covariance are known."""
    with few_threads(features.shape[1]):
        return distance(gaussian(features, index), reference)


def few_threads(dim: int) -> threadpool_limits:
    """A context in which BLAS has one thread for small matrices."""
    return threadpool_limits(1 if dim < MANY_DIMS else None, "blas")


def gaussian(features: Rows, index: np.ndarray | None = None) -> Gaussian:
    """Mean and unbiased covariance of float [M, D] or its rows numbered `index`; float64 sums of a part at a time."""
    count = len(features) if index is None else len(index)
    runs = [slice(start, min(start + PART, count)) for start in range(0, count, PART)]
    places = runs if index is None else [index[run] for run in runs]
    mean = sum(features[rows].double().sum(0).numpy() for rows in places) / count
    scatter = sum((part := features[rows].double().numpy() - mean).T @ part for rows in places)  # half, by NumPy
    return Gaussian(mean, scatter / (count - 1), count)


def distance(one: Gaussian, other: Gaussian) -> float:
    """|m - n|² + tr(S + T - 2 (S T)^½).

    With S = L Lᵀ the eigenvalues of S T are those of the symmetric Lᵀ T L, and the trace is the sum of their roots.
    """
    trace = np.sqrt(eigenvalues(rooted(one, other)).clip(0)).sum()
    means = np.square(one.mean - other.mean).sum()
    return float(means + np.trace(one.covariance) + np.trace(other.covariance) - 2 * trace)


def eigenvalues(symmetric: Matrix) -> NDArray[np.float64]:
    """[D], ascending; of a large matrix by torch, which takes half of SciPy's time, or less."""
    if len(symmetric) < MANY_DIMS:
        return eigvalsh(symmetric, overwrite_a=True, check_finite=False)
    return torch.linalg.eigvalsh(torch.from_numpy(symmetric)).numpy()


def rooted(one: Gaussian, other: Gaussian) -> Matrix:
    """Lᵀ T L with S = L Lᵀ by Cholesky, or by eigenvectors where S is singular, as of fewer images than dimensions.

    Eigenvalues of S that only rounding keeps from 0 are left out: the root of such noise is 1e-8 of the greatest one.
    """
    if not one.singular:
        try:
            return by_cholesky(cholesky(one.covariance, lower=True), other.covariance)
        except np.linalg.LinAlgError:  # dimensions that depend on each other, or never vary
            pass
    values, vectors = eigh(one.covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    factor = vectors[:, kept] * np.sqrt(values[kept])
    return factor.T @ other.covariance @ factor


def by_cholesky(factor: Matrix, covariance: Matrix) -> Matrix:
    """Lᵀ T L, L lower triangular, in half the work of products with a full matrix."""
    dtrmm = get_blas_funcs("trmm", (factor, covariance))
    right = dtrmm(1.0, factor, covariance, side=1, lower=1)
    return dtrmm(1.0, factor, right, lower=1, trans_a=1)
