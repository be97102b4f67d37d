"""Accuracy of linear probes of every layer, and the best layer, which train images alone decide on."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stages.studies.linear_probe import fit_classifier, has_classes
from stages.studies.params import LayerProbe

Head = Callable[[np.ndarray], np.ndarray]
EPS = 1e-6  # GigaTok's, added to the variance of a column


def obstacle(train_labels: np.ndarray, val_labels: np.ndarray) -> str:
    """Why no layer can be chosen, or ""; labels int64 [M], -1 without a class."""
    if not has_classes(train_labels, val_labels):
        return "no classes"
    twice = (np.unique(train_labels, return_counts=True)[1] > 1).sum()
    return "" if twice > 1 else "fewer than two classes with two train images: no layer can be chosen"


def fit_head(features: np.ndarray, labels: np.ndarray, params: LayerProbe) -> Head:
    """A linear head fitted on float [M, D] and classes int64 [M]; it maps float [any, D] to classes [any]."""
    if params.scaling == "all":
        return fit_classifier(features, labels, params.inverse_regularization)
    shift, scale = features.mean(0), (features.var(0) + EPS) ** -0.5
    classify = fit_classifier((features - shift) * scale, labels, params.inverse_regularization)
    return lambda asked: classify((asked - shift) * scale)


def score(head: Head, val: np.ndarray, val_labels: np.ndarray) -> dict[str, float]:
    """Accuracy of a head on val, with its standard error over val images (_image_std)."""
    hits = head(val) == val_labels
    return {"accuracy": float(hits.mean()), "accuracy_image_std": float(hits.std() / len(hits) ** 0.5)}


def score_by_folds(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, params: LayerProbe
) -> dict[str, float]:
    """`score` of a head fitted on all of train, with what other heads, each fitted without one fold of train, tell.

    `held_out` is their accuracy on the train images of that fold, accuracy_std the deviation between them on val.
    """
    found, folds = score(fit_head(train, train_labels, params), val, val_labels), folds_of(train_labels, params)
    held_out, on_val = np.zeros(len(train), bool), []
    for fold in np.unique(folds):
        out = folds == fold
        head = fit_head(train[~out], train_labels[~out], params)
        held_out[out] = head(train[out]) == train_labels[out]
        on_val.append(int((head(val) == val_labels).sum()))
    return {**found, "accuracy_std": float(np.std(on_val, ddof=1) / len(val)), "held_out": float(held_out.mean())}


def folds_of(labels: np.ndarray, params: LayerProbe) -> np.ndarray:
    """int64 [M]: the fold of each train image; seeded, the images of a class in as many folds as there can be."""
    shuffled = np.random.default_rng(params.seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % params.folds
    return folds


def summary(layers: list[dict[str, Any]]) -> dict[str, float]:
    """The layer that is best on held-out train images, the first of equal ones, the middle one and the last one.

    The middle one is read after half of the blocks, rounded down (GigaTok).
    """
    last = len(layers) - 1
    best = int(np.argmax([layer["held_out"] for layer in layers]))
    found: dict[str, float] = {"best_layer": best, "middle_layer": last // 2, "last_layer": last}
    for name, number in (("best", best), ("middle", last // 2), ("last", last)):
        row = layers[number]
        found |= {f"{name}{end}": row[f"accuracy{end}"] for end in ("", "_std", "_image_std")}
    return found
