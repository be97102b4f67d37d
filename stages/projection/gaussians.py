"""Two Gaussian classes in a plane with one covariance and equal priors: points, and what no classifier can exceed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def draw(
    means: list[list[float]], covariance: list[list[float]], per_class: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [2 * per_class, 2] points, the first class first, and their labels int64: 0 or 1."""
    import numpy as np

    points = [rng.multivariate_normal(mean, covariance, per_class, method="cholesky") for mean in means]
    return np.concatenate(points), np.repeat([0, 1], per_class)


def bayes_accuracy(means: list[list[float]], covariance: list[list[float]], noise_sigma: float) -> float:
    """The best accuracy that any classifier reaches on points with noise of this deviation, knowing all about them.

    With S = covariance + noise_sigma² I and d the difference of the means, the log-likelihood ratio is normal with
    mean ±D²/2 and variance D², D² = dᵀ S⁻¹ d; its sign is right with probability Phi(D/2) (Fisher 1936; Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, 4.3).
    """
    import numpy as np

    apart = np.subtract(means[1], means[0])
    noisy = np.asarray(covariance) + noise_sigma**2 * np.eye(2)
    distance = math.sqrt(apart @ np.linalg.solve(noisy, apart))
    return 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))
