"""Linear read-outs: what can be told from rows by logistic regression and by least squares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def fit_classifier(
    rows: np.ndarray, labels: np.ndarray, inverse_regularisation: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression: rows float [M, D] -> classes [M]. The penalty is scikit-learn's C, for variance 1.

    All rows are moved and scaled as one to mean 0 and mean variance 1, because the solver stops far from the optimum of
    rows of small numbers, such as bags of many codes. Columns are not scaled one by one: that would blow up pixels
    which are black in every training image, and treat a raw-pixel baseline unfairly on moved images.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = rows.mean(0), max(float(rows.var(0).mean()), 1e-30) ** -0.5
    classifier = LogisticRegression(C=inverse_regularisation, max_iter=5000).fit((rows - mean) * scale, labels)
    return lambda asked: classifier.predict((asked - mean) * scale)


def told_apart(train_labels: np.ndarray, val_labels: np.ndarray) -> bool:
    """Whether there is a class to read: every image has one (not -1), and train has two or more."""
    return bool(min(train_labels.min(), val_labels.min()) >= 0) and len(set(train_labels.tolist())) > 1


def class_hits(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, inverse_regularisation: float
) -> np.ndarray:
    """float64 [M], 1 where a classifier fitted on `train` names a val row's class."""
    return (fit_classifier(train, train_labels, inverse_regularisation)(val) == val_labels).astype(float)


class LinearMap:
    """Ridge regression with an intercept from batches, by sums alone: memory does not grow with the rows."""

    def __init__(self, dim: int, targets: int):
        import numpy as np

        self.count = 0
        self.row_sum, self.target_sum = np.zeros(dim), np.zeros(targets)
        self.gram, self.cross = np.zeros((dim, dim)), np.zeros((dim, targets))

    def add(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """float [M, dim] and float [M, targets]."""
        import numpy as np

        rows, targets = rows.astype(np.float64), targets.astype(np.float64)
        self.count += len(rows)
        self.row_sum += rows.sum(0)
        self.target_sum += targets.sum(0)
        self.gram += rows.T @ rows
        self.cross += rows.T @ targets

    def solve(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """float64 weights [dim, targets] and intercept [targets]; prediction = rows @ weights + intercept.

        Least squares + `ridge` * (the columns' mean variance) * ||weights||² a row: scikit-learn's Ridge with
        alpha = ridge * rows * variance.
        """
        import numpy as np

        mean, target_mean = self.row_sum / self.count, self.target_sum / self.count
        covariance = self.gram / self.count - np.outer(mean, mean)
        penalty = ridge * np.trace(covariance) / len(mean) * np.eye(len(mean))
        cross = self.cross / self.count - np.outer(mean, target_mean)
        weights = np.linalg.lstsq(covariance + penalty, cross, rcond=None)[0]
        return weights, target_mean - mean @ weights
