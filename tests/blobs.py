"""k-means settings and rows around five centres, small enough for brute force."""

import numpy as np
import torch

from stages.codebook import kmeans
from stages.codebook.rows import Layout, Rows

CPU = torch.device("cpu")
BASE = {
    "kind": "kmeans", "encoder": "pipeline", "blocks": [], "layers": "concat", "pca_dim": 0, "whiten": 0.0,
    "num_codes": 5, "method": "sample", "engine": "faiss", "max_vectors": 0, "chunk_vectors": 1000,
    "batch_vectors": 100, "start_iterations": 0, "iterations": 20, "init": "kmeans++", "redo": 1,
    "normalise": False, "seed": 0,
}  # fmt: skip


def kmeans_params(**changes) -> kmeans.Params:
    """`BASE` with changes."""
    return kmeans.Params(**{**BASE, **changes})


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 8] around five centres."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(5, 8))[rng.integers(5, size=count)] * 3 + rng.normal(size=(count, 8))).astype(np.float32)


def rows_of(points: np.ndarray, normalise: bool = False, layers: int = 1, files: int = 7) -> Rows:
    """Rows as if images of ten patches each had given them, in several files; points [M, layers side by side * D]."""
    images = points.reshape(-1, 1, 10, points.shape[1])  # [images, groups, patches, D]
    parts = [part[:, None] for part in np.array_split(images, files)]
    shape = Layout(list(range(layers)), 1, 10, images.shape[-1], False, False, {"train": len(images), "val": 0})
    return Rows(shape, {"train": [lambda part=part: iter(part) for part in parts], "val": []}, normalise)


def error(points: np.ndarray, vectors: np.ndarray | torch.Tensor) -> float:
    """The sum of squared distances to the nearest vector."""
    return float(((points[:, None] - np.asarray(vectors)) ** 2).sum(-1).min(1).sum())
