"""Linear read-outs: what can be told from rows by logistic regression and by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def fit_classifier(rows: np.ndarray, labels: np.ndarray, inverse_regularisation: float) -> Any:
    """Logistic regression whose penalty (scikit-learn's C, for variance 1) is relative to the columns' mean variance.

    Columns are not scaled one by one: that would blow up pixels which are black in every training image, and treat a
    raw-pixel baseline unfairly on moved images.
    """
    from sklearn.linear_model import LogisticRegression

    strength = inverse_regularisation / max(float(rows.var(0).mean()), 1e-30)
    return LogisticRegression(C=strength, max_iter=5000).fit(rows, labels)


def told_apart(train_labels: np.ndarray, val_labels: np.ndarray) -> bool:
    """Whether there is a class to read: every image has one (not -1), and train has two or more."""
    return bool(min(train_labels.min(), val_labels.min()) >= 0) and len(set(train_labels.tolist())) > 1


def class_hits(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, inverse_regularisation: float
) -> np.ndarray:
    """float64 [M], 1 where a classifier fitted on `train` names a val row's class.

    All rows are moved and scaled as one to mean 0 and mean variance 1. The optimum is the same, but rows of small
    numbers, such as bags of many codes, have gradients so small that the solver would stop far from it.
    """
    mean, scale = train.mean(0), max(float(train.var(0).mean()), 1e-30) ** -0.5
    classifier = fit_classifier((train - mean) * scale, train_labels, inverse_regularisation)
    return (classifier.predict((val - mean) * scale) == val_labels).astype(float)


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
