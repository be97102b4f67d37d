"""Retrieval: is the train image that is nearest to a val image of the same class?

Each val image ranks all train images by similarity: of histograms of codes (`bag`) the sum of sqrt(p q), known as the
Bhattacharyya coefficient; of mean features the cosine; of thumbnails (`colors`, a pixel per patch) minus the distance.
"""

from collections.abc import Callable, Iterator

import numpy as np

from stages.core.metrics import bags, mean_and_std
from stages.studies.code_survey import Survey
from stages.studies.linear_probe import has_classes

QUERIES = 256  # val images ranked at once, so that memory does not grow with their number


def retrieval(train: Survey, val: Survey, num_codes: int, draws: int, seed: int) -> dict[str, float | str]:
    """Recall at 1 (NAME) and mean average precision (NAME_map) of each similarity, their _std, and chance.

    NAME is the share of val images whose nearest train image has their class. Val images of a class without train
    images are left out. `chance` and `chance_map` are expected of random rankings; _std by bootstrap over val images.
    """
    if not has_classes(train.labels, val.labels):
        return {"skipped": "no classes"}
    known = np.isin(val.labels, train.labels)
    relevant = np.bincount(train.labels, minlength=val.labels.max() + 1)[val.labels[known]]
    found: dict[str, float | str] = {
        "chance": float(relevant.mean() / len(train.labels)),
        "chance_map": float(expected_precision(relevant, len(train.labels)).mean()),
    }
    compared = {
        "bag": (dot, [np.sqrt(bags(one.codes, num_codes)) for one in (val, train)]),
        "features": (dot, [unit(one.mean_features) for one in (val, train)]),
        "colors": (nearness, [one.colors.reshape(len(one.colors), -1) for one in (val, train)]),
    }
    for name, (similarity, (asked, given)) in compared.items():
        ranked = rankings(similarity, asked[known], given, val.labels[known], train.labels)
        scores = np.concatenate([[hits[:, 0], average_precision(hits)] for hits in ranked], 1)
        for key, values in zip((name, f"{name}_map"), scores, strict=True):
            found |= mean_and_std(key, values, draws, seed)
    return found


def rankings(
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray], asked: np.ndarray, given: np.ndarray,
    classes: np.ndarray, given_classes: np.ndarray,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Batches of bool [B, T]: per asked vector, whether the 1st, 2nd, … most similar given one has its class."""
    for start in range(0, len(asked), QUERIES):
        some = slice(start, start + QUERIES)
        order = np.argsort(-similarity(asked[some], given), axis=1, kind="stable")
        yield given_classes[order] == classes[some, None]


def average_precision(hits: np.ndarray) -> np.ndarray:
    """float64 [B] of rankings bool [B, T] with a hit each: mean over the hits of the precision down to each."""
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / hits.sum(1)


def expected_precision(relevant: np.ndarray, total: int) -> np.ndarray:
    """The expected average precision of random rankings of `total` with so many `relevant` ones, int [B] -> [B]."""
    first = (1 / np.arange(1, total + 1)).mean()
    return first + (1 - first) * (relevant - 1) / max(total - 1, 1)


def dot(asked: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Products of all pairs."""
    return asked @ given.T


def nearness(asked: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Minus the squared distance of all pairs, plus a term that all pairs of a row share."""
    return 2 * asked @ given.T - (given**2).sum(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [M, D] of length 1; a vector of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
