"""k-means settings and features around five centers, small enough for brute force."""

import numpy as np
import torch

from stages.codebook.kmeans_features import Features, Layout
from stages.codebook.params import Kmeans

CPU = torch.device("cpu")
BASE = {
    "kind": "kmeans", "encoder": "pipeline", "blocks": [], "layers": "concat", "pca_dim": 0, "whiten": 0.0,
    "num_codes": 5, "method": "sample", "engine": "faiss", "max_vectors": 0, "chunk_vectors": 1000,
    "batch_vectors": 100, "start_iterations": 0, "iterations": 20, "init": "kmeans++", "redo": 1,
    "normalize": False, "seed": 0,
}  # fmt: skip


def kmeans_params(**changes) -> Kmeans:
    """`BASE` with changes."""
    return Kmeans(**{**BASE, **changes})


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 8] around five centers."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(5, 8))[rng.integers(5, size=count)] * 3 + rng.normal(size=(count, 8))).astype(np.float32)


def features_of(points: np.ndarray, normalize: bool = False, layers: int = 1, files: int = 7) -> Features:
    """Features as if of images of ten patches each, in several files; points [M, layers side by side * D]."""
    images = points.reshape(-1, 1, 10, points.shape[1])  # [images, codebooks, patches, D]
    parts = [part[:, None] for part in np.array_split(images, files)]
    shape = Layout(list(range(layers)), 1, 10, images.shape[-1], False, False, {"train": len(images), "val": 0})
    return Features(shape, {"train": [lambda part=part: iter(part) for part in parts], "val": []}, normalize)


def error(points: np.ndarray, vectors: np.ndarray | torch.Tensor) -> float:
    """The sum of squared distances to the nearest vector."""
    return float(((points[:, None] - np.asarray(vectors)) ** 2).sum(-1).min(1).sum())
