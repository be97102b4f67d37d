"""Nearest neighbors: distances that show copies of training images, and the radii of precision and recall.

Copies of training images that are not in the reference (reference.max_images) are not found.
"""

import numpy as np
import torch
from torch import Tensor

from stages.evaluate.image_features import ImageFeatures

CHUNK, OTHERS = 1_000, 2**14  # images at once, and images with which they are compared at once, which cdist copies
SHORTLIST = 8
DISTANCES = ("pixel", "embedded")  # names of `points`


def points(images: ImageFeatures) -> dict[str, Tensor]:
    """The vectors between which Euclidean distances are measured, float [M, …] by name.

    "pixel": the distance is the root mean square difference of thumbnails, 1 from black to white; "embedded": features.
    """
    return {"pixel": images.thumbs / (2 * images.thumbs.shape[1] ** 0.5), "embedded": images.features["embedded"]}


def distances_to(images: ImageFeatures, train: ImageFeatures) -> dict[str, np.ndarray]:
    """float64 [M] by name: distance of each image to the nearest of `train`."""
    reference = points(train)
    return {name: nearest(found, reference[name])[0] for name, found in points(images).items()}


def nearest(queries: Tensor, reference: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of float [M, D] to float [R, D]: float64 [M] Euclidean distances and int64 [M] indices of the nearest.

    Matrix products find 8 candidates per query, 20 times as fast as differences. Rounding makes them inexact for small
    distances, such as those of copies, so differences decide among the 8; of equal distances the first one counts.
    """
    # Results have their place beforehand: kept between the large blocks of the loop, they would fragment the heap.
    distances, index = queries.new_empty(len(queries)), torch.empty(len(queries), dtype=torch.int64)
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        distances[rows], index[rows] = _nearest_chunk(queries[rows], reference)
    return distances.numpy().astype("float64"), index.numpy()


def _nearest_chunk(queries: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    _, places = smallest(queries, reference, min(SHORTLIST, len(reference)), "use_mm_for_euclid_dist")
    listed = places.sort(1).values
    best = (reference[listed] - queries[:, None]).norm(dim=2).min(1)
    return best.values, listed.gather(1, best.indices[:, None])[:, 0]


def smallest(queries: Tensor, reference: Tensor, count: int, mode: str) -> tuple[Tensor, Tensor]:
    """[M, count] distances to the nearest of the reference, ascending, and their places, by torch.cdist."""
    found = []
    for start, part in zip(range(0, len(reference), OTHERS), reference.split(OTHERS), strict=True):
        near = torch.cdist(queries, part, compute_mode=mode).topk(min(count, len(part)), largest=False)
        found.append((near.values, near.indices + start))
    if len(found) == 1:
        return found[0]
    values, places = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    best = values.topk(count, largest=False)
    return best.values, places.gather(1, best.indices)


def distance_metrics(distances: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Quantiles of distances to train, and the share nearer than the nearest 1 % of real val images (`val`).

    For new real images this share is 0.01 in expectation, or 1 / (M + 1) with M < 99 images in `val`.
    """
    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    near = float((distances < np.quantile(val, 0.01, method="weibull")).mean())
    return {"median": float(median), "p01": float(low), "p99": float(high), "near_copies": near}


def knn_radii(features: Tensor, neighbors: int) -> Tensor:
    """[M, D] -> [M], the distance to the k-th nearest other point (Kynkäänniemi et al. 2019, section 2)."""
    mode = "use_mm_for_euclid_dist_if_necessary"
    radii = features.new_empty(len(features))
    for part, found in zip(features.split(CHUNK), radii.split(CHUNK), strict=True):
        found.copy_(smallest(part, features, neighbors + 1, mode)[0][:, -1])
    return radii
