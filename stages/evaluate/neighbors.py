"""Nearest neighbors: distances that show copies of training images, and the radii of precision and recall.

Copies of training images that are not in the reference (reference.max_images) are not found.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stages.evaluate.image_features import ImageFeatures
from stages.evaluate.rows import Rows

CHUNK, OTHERS = 1_000, 2**14  # images at once, and images with which they are compared at once, which cdist copies
MOST_VALUES = 2**22  # of those others: fewer images at once where they have many features
SHORTLIST = 8
DISTANCES = ("pixel", "embedded")  # names of `points`


def points(images: ImageFeatures) -> dict[str, Rows]:
    """The vectors between which Euclidean distances are measured, float [M, …] by name.

    "pixel": thumbnails; "embedded": features.
    """
    return {"pixel": images.thumbs, "embedded": images.features["embedded"]}


def distances_to(images: ImageFeatures, train: ImageFeatures) -> dict[str, np.ndarray]:
    """float64 [M] by name: distance of each image to the nearest of `train`."""
    reference = points(train)
    return {name: nearest(found, reference[name])[0] for name, found in points(images).items()}


def nearest(queries: Rows, reference: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of float [M, D] to float [R, D]: float64 [M] Euclidean distances and int64 [M] indices of the nearest.

    Matrix products find 8 candidates per query, 20 times as fast as differences. Rounding makes them inexact for small
    distances, such as those of copies, so differences decide among the 8; of equal distances the first one counts.
    """
    # Results have their place beforehand: kept between the large blocks of the loop, they would fragment the heap.
    distances, index = torch.empty(len(queries)), torch.empty(len(queries), dtype=torch.int64)
    listed = smallest(queries, reference, min(SHORTLIST, len(reference)), "use_mm_for_euclid_dist")[1].sort(1).values
    for rows in runs(len(queries), CHUNK // SHORTLIST or 1):
        best = (reference[listed[rows]] - queries[rows][:, None]).norm(dim=2).min(1)
        distances[rows], index[rows] = best.values, listed[rows].gather(1, best.indices[:, None])[:, 0]
    return distances.numpy().astype("float64"), index.numpy()


def smallest(queries: Rows, reference: Rows, count: int, mode: str) -> tuple[Tensor, Tensor]:
    """[M, count] distances to the nearest of the reference, ascending, and their places, by torch.cdist.

    Each block of the reference is read once, and compared with a chunk of the queries at a time.
    """
    values = torch.full((len(queries), count), torch.inf)
    places = torch.zeros((len(queries), count), dtype=torch.int64)
    for block, part in blocks(reference):
        for rows in runs(len(queries), CHUNK):
            near = torch.cdist(queries[rows], part, compute_mode=mode).topk(min(count, len(part)), largest=False)
            listed = torch.cat([places[rows], near.indices + block.start], 1)
            best = torch.cat([values[rows], near.values], 1).topk(count, largest=False)
            values[rows], places[rows] = best.values, listed.gather(1, best.indices)
    return values, places


def blocks(of: Rows) -> Iterator[tuple[slice, Tensor]]:
    """All rows of float [M, D], as many at once as memory is set aside for: their numbers and the rows."""
    size = max(CHUNK, min(OTHERS, MOST_VALUES // of.shape[1]))
    return ((rows, of[rows]) for rows in runs(len(of), size))


def runs(count: int, size: int) -> list[slice]:
    """0 … count - 1 in slices of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def distance_metrics(distances: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Quantiles of distances to train, and the share nearer than the nearest 1 % of real val images (`val`).

    For new real images this share is 0.01 in expectation, or 1 / (M + 1) with M < 99 images in `val`.
    """
    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    near = float((distances < np.quantile(val, 0.01, method="weibull")).mean())
    return {"median": float(median), "p01": float(low), "p99": float(high), "near_copies": near}


def knn_radii(features: Rows, neighbors: Sequence[int]) -> Tensor:
    """[M, D] -> [M, len(neighbors)]: distances to the k-th nearest other point, NaN where there are fewer others.

    Kynkäänniemi et al. 2019, section 2.
    """
    most = min(max(neighbors) + 1, len(features))
    found = smallest(features, features, most, "use_mm_for_euclid_dist_if_necessary")[0]
    none = torch.full((len(features),), torch.nan)
    return torch.stack([found[:, k] if k < most else none for k in neighbors], 1)
