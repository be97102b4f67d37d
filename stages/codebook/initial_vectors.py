"""Where k-means begins: vectors of a sample, drawn by faiss or far from each other; and faiss's k-means on a sample."""

from typing import Any

import faiss
import numpy as np
import torch

from stages.codebook.params import Kmeans

INIT = {"random": "RANDOM", "kmeans++": "KMEANS_PLUS_PLUS", "afk-mc2": "AFK_MC2"}
REDO_SEED = 15_486_557  # what faiss adds to the seed for every further redo


def faiss_kmeans(sample: np.ndarray, params: Kmeans, device: torch.device, iterations: int) -> Any:
    """The faiss.Kmeans with the best last objective of `redo` runs on float32 [M, D].

    faiss's own nredo is not used: its iteration_stats mix those of several redos, of which each may stop early.
    """
    seeds = [(params.seed + redo * REDO_SEED) % 2**31 for redo in range(params.redo)]
    runs = (faiss_run(sample, params, device, iterations, seed) for seed in seeds)
    best = max if params.normalize else min  # a sum of cosines or of squared distances
    return best(runs, key=lambda run: list(run.obj[-1:]))


def faiss_run(sample: np.ndarray, params: Kmeans, device: torch.device, iterations: int, seed: int) -> Any:
    """One run, without faiss's silent sub-sample of 256 vectors per centroid.

    faiss uses all visible GPUs, whichever `device` names; CUDA_VISIBLE_DEVICES hides others.
    """
    kmeans = faiss.Kmeans(
        sample.shape[1], params.num_codes, niter=iterations, seed=seed,
        spherical=params.normalize, gpu=device.type == "cuda" and faiss.get_num_gpus() > 0,
        init_method=getattr(faiss, f"ClusteringInitMethod_{INIT[params.init]}"),
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip
    kmeans.train(sample)
    return kmeans


def initial_vectors(sample: np.ndarray, params: Kmeans, device: torch.device, iterations: int = 0) -> np.ndarray:
    """float32 [K, D]: faiss's initial centroids, or those after some iterations."""
    return faiss_kmeans(sample, params, device, iterations).centroids.copy()


def first_vectors(sample: np.ndarray, params: Kmeans, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The sample float32 [M, D] and K of its vectors."""
    if params.init == "kmeans||":
        return sample, spread_vectors(sample, params.num_codes, params.seed)
    return sample, initial_vectors(sample, params, device)


def spread_vectors(sample: np.ndarray, num_codes: int, seed: int) -> np.ndarray:
    """float32 [K, D]: vectors of the sample far from each other, as of k-means++, in a tenth of its time.

    As in k-means|| (Bahmani et al. 2012), several are drawn at once: an eighth of those that there are, each with a
    probability in proportion to the squared distance to the nearest of them.
    """
    rng, squares = np.random.default_rng(seed), np.einsum("md,md->m", sample, sample)
    chosen, distances = np.array([rng.integers(len(sample))]), np.full(len(sample), np.inf, np.float32)
    new = chosen
    while len(chosen) < num_codes:
        beyond = (squares[new] - sample @ (2 * sample[new]).T).min(1)  # of ||f - c||², without ||f||²
        distances = np.minimum(distances, squares + beyond).clip(np.finfo(np.float32).tiny)
        distances[chosen] = 0
        weights = distances.astype(np.float64)
        count = min(1 + len(chosen) // 8, num_codes - len(chosen))
        new = rng.choice(len(sample), count, replace=False, p=weights / weights.sum())
        chosen = np.concatenate([chosen, new])
    return sample[chosen]
