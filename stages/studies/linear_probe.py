"""Linear probes: logistic regression for classes, streamed ridge regression for continuous targets."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

SMALL = 2**30  # multiplications of a pass over all features; below, more threads of BLAS take up to six times as long


def fit_classifier(
    features: np.ndarray, labels: np.ndarray, inverse_regularization: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression: features float [M, D] -> classes [M]. The penalty is scikit-learn's C, for variance 1.

    All features are shifted and scaled together to mean 0 and mean variance 1, because the solver stops far from the
    optimum of small numbers, such as bags of many codes. Columns are not scaled one by one: that would amplify pixels
    which are black in every training image, and treat a raw-pixel baseline unfairly on augmented images.
    """
    mean, scale = features.mean(0), max(float(features.var(0).mean()), 1e-30) ** -0.5
    classifier = LogisticRegression(C=inverse_regularization, max_iter=5000)
    passed = features.size * len(np.unique(labels))
    with threadpool_limits(1 if passed < SMALL else None, "blas"), warnings.catch_warnings():
        # Few images per class are no regression, whatever scikit-learn suspects.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        classifier.fit((features - mean) * scale, labels)
    return lambda asked: classifier.predict((asked - mean) * scale)


def has_classes(train_labels: np.ndarray, val_labels: np.ndarray) -> bool:
    """Whether a classifier can be trained and tested.

    Every image has a class (not -1), train has two or more, and val has one of them.
    """
    every = min(train_labels.min(), val_labels.min()) >= 0
    return bool(every and len(np.unique(train_labels)) > 1 and np.isin(val_labels, train_labels).any())


def class_hits(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, inverse_regularization: float
) -> np.ndarray:
    """float64 [M], 1 where a classifier fitted on `train` predicts the class of a val image.

    M: the val images of classes that `train` has; the others are left out.
    """
    known = np.isin(val_labels, train_labels)
    val, val_labels = val[known], val_labels[known]
    return (fit_classifier(train, train_labels, inverse_regularization)(val) == val_labels).astype(float)


class LinearMap:
    """Ridge regression with an intercept, from batches. It keeps sums only, so memory does not grow with the data."""

    def __init__(self, dim: int, targets: int):
        self.count = 0
        self.input_sum, self.target_sum = np.zeros(dim), np.zeros(targets)
        self.gram, self.cross = np.zeros((dim, dim)), np.zeros((dim, targets))

    def add(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """float [M, dim] and float [M, targets]."""
        inputs, targets = inputs.astype(np.float64), targets.astype(np.float64)
        self.count += len(inputs)
        self.input_sum += inputs.sum(0)
        self.target_sum += targets.sum(0)
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ targets

    def solve(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """float64 weights [dim, targets] and intercept [targets]; prediction = inputs @ weights + intercept.

        Minimizes the mean squared error + `ridge` * (the columns' mean variance) * ||weights||²: scikit-learn's Ridge
        with alpha = ridge * M * variance.
        """
        mean, target_mean = self.input_sum / self.count, self.target_sum / self.count
        covariance = self.gram / self.count - np.outer(mean, mean)
        penalty = ridge * np.trace(covariance) / len(mean) * np.eye(len(mean))
        cross = self.cross / self.count - np.outer(mean, target_mean)
        weights = np.linalg.lstsq(covariance + penalty, cross, rcond=None)[0]
        return weights, target_mean - mean @ weights
