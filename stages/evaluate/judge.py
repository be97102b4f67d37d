"""The judge of agreement: a classifier that saw real training images only, and none of the pipeline's networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.core.choice import choose

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Classifier = Any  # scikit-learn estimators have no common type


def fit_judge(thumbs: Tensor, labels: np.ndarray, max_images: int, seed: int) -> Classifier:
    """A support vector machine (RBF kernel) on thumbnails [M, T], at most max_images of them.

    Pixels are not scaled one by one: one that is black in every training image would turn the slightest noise of a
    reconstruction into a huge value.
    """
    from sklearn.svm import SVC

    index = choose_known(labels, max_images, seed)
    return SVC(kernel="rbf", C=10.0, gamma="scale").fit(thumbs[index].numpy(), labels[index])


def fit_head(features: Tensor, labels: np.ndarray, max_images: int, seed: int) -> Classifier:
    """Logistic regression on scaled features: the class logits that an Inception score needs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    index = choose_known(labels, max_images, seed)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return head.fit(features[index].numpy(), labels[index])


def choose_known(labels: np.ndarray, max_images: int, seed: int) -> np.ndarray:
    """int64 [at most max_images], sorted: a seeded choice among the images that have a class."""
    import numpy as np

    known = np.flatnonzero(labels >= 0)
    return known[choose(len(known), max_images, seed)]


def head_logits(head: Classifier, features: Tensor) -> Tensor:
    """float64 [M, classes]; two classes give one column of scores, which becomes a pair of logits."""
    import torch

    scores = torch.from_numpy(head.decision_function(features.numpy()))
    return torch.stack([torch.zeros_like(scores), scores], 1) if scores.ndim == 1 else scores


def hits(judge: Classifier, thumbs: Tensor, labels: np.ndarray) -> np.ndarray:
    """bool [M]: where the judge sees the class that was asked for."""
    return judge.predict(thumbs.numpy()) == labels
