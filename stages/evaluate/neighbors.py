"""Nearest neighbors: distances that show copies of training images, and the radii of precision and recall.

Copies of training images that are not in the reference (reference.max_images) are not found.
"""

import numpy as np
import torch
from torch import Tensor

from stages.evaluate.image_features import ImageFeatures

CHUNK = 1_000  # images at once
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
    found = [_nearest_chunk(part, reference) for part in queries.split(CHUNK)]
    distances, index = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return distances.astype("float64"), index


def _nearest_chunk(queries: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    rough = torch.cdist(queries, reference, compute_mode="use_mm_for_euclid_dist")
    listed = rough.topk(min(SHORTLIST, len(reference)), largest=False).indices.sort(1).values
    best = (reference[listed] - queries[:, None]).norm(dim=2).min(1)
    return best.values, listed.gather(1, best.indices[:, None])[:, 0]


def distance_metrics(distances: np.ndarray, val: np.ndarray) -> dict[str, float]:
    """Quantiles of distances to train, and the share nearer than the nearest 1 % of real val images (`val`).

    For new real images this share is 0.01 in expectation, or 1 / (M + 1) with M < 99 images in `val`.
    """
    low, median, high = np.quantile(distances, [0.01, 0.5, 0.99])
    near = float((distances < np.quantile(val, 0.01, method="weibull")).mean())
    return {"median": float(median), "p01": float(low), "p99": float(high), "near_copies": near}


def knn_radii(features: Tensor, neighbors: int) -> Tensor:
    """[M, D] -> [M], the distance to the k-th nearest other point (Kynkäänniemi et al. 2019, section 2)."""
    nearest = (torch.cdist(part, features).topk(neighbors + 1, largest=False).values for part in features.split(CHUNK))
    return torch.cat([found[:, -1] for found in nearest])
