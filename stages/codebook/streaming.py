"""k-means over all features, streamed: Lloyd's iterations, or mini-batches (Sculley 2010), with a checkpoint per pass.

Memory holds a chunk of features, the code vectors and their sums, however many images there are. Every pass leaves its
result in scratch/; a killed fit continues after the last pass and ends with the same bytes as an uninterrupted one.

A code vector without features is replaced by a copy of the donor, the code vector with most features. faiss draws the
donor at random. The dimensions of the two are scaled by 1 ± 1/1024, so that the next pass splits the features.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from scipy.sparse import csr_array

from stages.codebook.kmeans_features import Features
from stages.codebook.params import Kmeans
from stages.codebook.quantizers import nearest
from stages.core.distributed import seed_of
from stages.core.progress import bar
from stages.core.results import Curves
from stages.core.scratch import read_hashed, write_hashed

INIT = {"random": "RANDOM", "kmeans++": "KMEANS_PLUS_PLUS", "afk-mc2": "AFK_MC2"}
SUM_VECTORS = 8192  # features summed in float32 before they enter the float64 sums
APART = 1 / 1024
REDO_SEED = 15_486_557  # what faiss adds to the seed for every further redo


@dataclass
class State:
    """Progress of a fit."""

    vectors: np.ndarray  # float64 [K, D]
    counts: np.ndarray  # float64 [K]: features assigned to each code vector so far; mini-batches only
    squares: float = 0.0  # Σ ||f||² over all features, from the first pass
    passes: int = 0
    converged: bool = False  # the last pass changed nothing
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def stream(
    features: Features, codebook: int, params: Kmeans, work: Path, device: torch.device
) -> tuple[torch.Tensor, Curves]:
    """float32 [K, D] of one codebook; objective (sum of squared distances) and splits of each pass."""
    path = work / f"kmeans-{codebook}.safetensors"
    advance = lloyd_pass if params.method == "lloyd" else minibatch_pass
    state = load(path) or start(features, codebook, params, device)
    name = f"codebook {codebook}" if codebook else "codebook"
    with bar(name, params.iterations, state.passes, "pass") as progress:
        while state.passes < params.iterations and not state.converged:
            advance(state, features, codebook, params, device)
            save(state, path)
            progress.update()
    curves = Curves()
    for step, scalars in state.history:
        curves.log(step, **scalars)
    return torch.from_numpy(state.vectors.astype(np.float32)), curves


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


def start(features: Features, codebook: int, params: Kmeans, device: torch.device) -> State:
    """Vectors clustered in memory on a seeded sample of one chunk: cheaper than as many passes over all features."""
    sample = features.sample(codebook, min(features.layout.train_vectors, params.chunk_vectors), params.seed)
    vectors = initial_vectors(sample, params, device, params.start_iterations).astype(np.float64)
    return State(vectors, np.zeros(len(vectors)))


def lloyd_pass(state: State, features: Features, codebook: int, params: Kmeans, device: torch.device) -> None:
    """One exact iteration over all train features."""
    vectors = torch.from_numpy(state.vectors.astype(np.float32)).to(device)
    counts, sums = np.zeros(len(vectors)), np.zeros(state.vectors.shape)
    for chunk in features.chunks("train", codebook, params.chunk_vectors):
        state.squares += 0.0 if state.passes else sum_of_squares(chunk)
        add(chunk, vectors, counts, sums)
    error = state.squares + error_beyond_squares(state.vectors, counts, sums)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], state.vectors)
    finish(state, means, counts, error, params.normalize)


def minibatch_pass(state: State, features: Features, codebook: int, params: Kmeans, device: torch.device) -> None:
    """Every train feature once, in an order drawn for the pass: files, then features within a chunk.

    After each batch a vector becomes the mean of all features assigned to it so far (Sculley 2010, algorithm 1). With
    `normalize` it gets unit length after the pass; during the pass features are assigned to means shorter than 1.
    """
    rng = np.random.default_rng(seed_of("kmeans", params.seed, codebook, state.passes))
    vectors, total, error = state.vectors.copy(), np.zeros(len(state.vectors)), 0.0
    for batch in batches(features, codebook, params, rng):
        counts, sums = np.zeros(len(vectors)), np.zeros(vectors.shape)
        add(batch, torch.from_numpy(vectors.astype(np.float32)).to(device), counts, sums)
        state.squares += 0.0 if state.passes else sum_of_squares(batch)
        error += error_beyond_squares(vectors, counts, sums)
        state.counts += counts
        total += counts
        vectors += (sums - counts[:, None] * vectors) / np.maximum(state.counts, 1)[:, None]
    finish(state, vectors, total, state.squares + error, params.normalize)


def batches(features: Features, codebook: int, params: Kmeans, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """float32 [batch_vectors, D] in a random order; the last batch of a chunk may be smaller."""
    order = rng.permutation(len(features.pieces["train"])).tolist()
    for chunk in features.chunks("train", codebook, params.chunk_vectors, order):
        shuffled = rng.permutation(len(chunk))
        for begin in range(0, len(chunk), params.batch_vectors):
            yield chunk[shuffled[begin : begin + params.batch_vectors]]


def add(chunk: np.ndarray, vectors: torch.Tensor, counts: np.ndarray, sums: np.ndarray) -> None:
    """Assign features to vectors; add them to the float64 counts [K] and sums [K, D], SUM_VECTORS at a time."""
    for begin in range(0, len(chunk), SUM_VECTORS):
        part = chunk[begin : begin + SUM_VECTORS]
        codes = nearest(torch.from_numpy(part).to(vectors.device), vectors).cpu().numpy()
        ones, shape = np.ones(len(part), np.float32), (len(part), len(vectors))
        sums += csr_array((ones, codes, np.arange(len(part) + 1)), shape=shape).T @ part
        counts += np.bincount(codes, minlength=len(vectors))


def sum_of_squares(chunk: np.ndarray) -> float:
    """Σ ||f||² in float64."""
    return float(np.einsum("md,md->m", chunk, chunk).sum(dtype=np.float64))


def error_beyond_squares(vectors: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> float:
    """Σ ||f - c||² - Σ ||f||² = Σ n ||c||² - 2 Σ c·s."""
    return float(counts @ np.square(vectors).sum(1) - 2 * np.vdot(vectors, sums))


def finish(state: State, vectors: np.ndarray, counts: np.ndarray, error: float, normalize: bool) -> None:
    """Update the state after a pass that led to `vectors`."""
    splits = fill_empty(vectors, counts, state.counts)
    if normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    state.converged = np.array_equal(vectors, state.vectors)
    state.vectors = vectors
    state.history.append((state.passes, {"objective": error, "splits": float(splits)}))
    state.passes += 1


def fill_empty(vectors: np.ndarray, counts: np.ndarray, all_counts: np.ndarray) -> int:
    """In place, split the vector with most features for each vector without any; return the number of splits."""
    apart = APART * np.where(np.arange(vectors.shape[1]) % 2, -1, 1)
    empty = np.flatnonzero(counts == 0)
    for code in empty:
        donor = counts.argmax()
        vectors[code] = vectors[donor] * (1 + apart)
        vectors[donor] *= 1 - apart
        counts[[code, donor]] = counts[donor] / 2
        all_counts[[code, donor]] = all_counts[donor] / 2
    return len(empty)


def save(state: State, path: Path) -> None:
    """Write the state atomically as one file; its facts are JSON in an array of bytes."""
    facts = {"squares": state.squares, "passes": state.passes, "converged": state.converged, "history": state.history}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    write_hashed(path, to_bytes({"vectors": state.vectors, "counts": state.counts, "facts": text}))


def load(path: Path) -> State | None:
    """The state that a killed fit left, if any; a damaged one is set aside."""
    if (content := read_hashed(path)) is None:
        return None
    found = from_bytes(content)
    facts: dict[str, Any] = json.loads(found["facts"].tobytes())
    state = State(found["vectors"], found["counts"], **facts)
    print(f"resuming at pass {state.passes}", flush=True)
    return state
