"""k-means over all features, streamed: Lloyd's iterations, or mini-batches (Sculley 2010), with a checkpoint per pass.

Memory holds a chunk of features, the code vectors and their sums, however many images there are. Every pass leaves its
result in scratch/; a killed fit continues after the last pass and ends with the same bytes as an uninterrupted one.

The processes of a torchrun share the assignment: in a pass of Lloyd each has its own files, of a mini-batch and of the
sample at the start its own runs of SHARED_VECTORS. Sums over files or runs do not depend on the number of processes,
and are added up in float64. So the code vectors are those of one process to the last digit of float64.

A code vector without features is replaced by a copy of the donor, the code vector with most features. faiss draws the
donor at random. The dimensions of the two are scaled by 1 ± 1/1024, so that the next pass splits the features.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from scipy.sparse import csr_array

from stages.codebook.initial_vectors import first_vectors
from stages.codebook.kmeans_features import Features
from stages.codebook.params import Kmeans
from stages.codebook.quantizers import nearest
from stages.codebook.sharing import add_up, from_first
from stages.core.distributed import rank, seed_of, world_size
from stages.core.progress import bar
from stages.core.results import Curves
from stages.core.scratch import read_hashed, write_hashed

SUM_VECTORS = 8192  # features summed in float32 before they enter the float64 sums
SHARED_VECTORS = 2048  # of a mini-batch or the sample, assigned by one process
APART = 1 / 1024


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
    state = from_first(lambda: load(path)) or start(features, codebook, params, device)
    name = f"codebook {codebook}" if codebook else "codebook"
    with bar(name, params.iterations, state.passes, "pass") as progress:
        while state.passes < params.iterations and not state.converged:
            advance(state, features, codebook, params, device)
            if rank() == 0:
                save(state, path)
            progress.update()
    curves = Curves()
    for step, scalars in state.history:
        curves.log(step, **scalars)
    return torch.from_numpy(state.vectors.astype(np.float32)), curves


def start(features: Features, codebook: int, params: Kmeans, device: torch.device) -> State:
    """Vectors clustered in memory on a seeded sample of one chunk: cheaper than as many passes over all features."""
    used = min(features.layout.train_vectors, params.chunk_vectors)
    sample, vectors = from_first(lambda: first_vectors(features.sample(codebook, used, params.seed), params, device))
    state = State(vectors.astype(np.float64), np.zeros(len(vectors)))
    while state.passes < params.start_iterations and not state.converged:
        counts, sums = assigned(sample, torch.from_numpy(state.vectors.astype(np.float32)).to(device))
        finish(state, means_of(state, counts, sums), counts, 0.0, params.normalize)
    return State(state.vectors, np.zeros(len(vectors)))


def means_of(state: State, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """float64 [K, D]: of the features of each vector, or the vector itself where it has none."""
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], state.vectors)


def lloyd_pass(state: State, features: Features, codebook: int, params: Kmeans, device: torch.device) -> None:
    """One exact iteration over all train features."""
    vectors = torch.from_numpy(state.vectors.astype(np.float32)).to(device)
    counts, sums, squares = np.zeros(len(vectors)), np.zeros(state.vectors.shape), np.zeros(1)
    for number in features.own("train"):  # no chunk spans two files, so that sums over a file are the same anywhere
        for chunk in features.chunks("train", codebook, params.chunk_vectors, [number]):
            squares += 0.0 if state.passes else sum_of_squares(chunk)
            add(chunk, vectors, counts, sums)
    add_up(counts, sums, squares)
    state.squares += float(squares[0])
    error = state.squares + error_beyond_squares(state.vectors, counts, sums)
    finish(state, means_of(state, counts, sums), counts, error, params.normalize)


def minibatch_pass(state: State, features: Features, codebook: int, params: Kmeans, device: torch.device) -> None:
    """Every train feature once, in an order drawn for the pass: files, then features within a chunk.

    After each batch a vector becomes the mean of all features assigned to it so far (Sculley 2010, algorithm 1). With
    `normalize` it gets unit length after the pass; during the pass features are assigned to means shorter than 1.
    """
    rng = np.random.default_rng(seed_of("kmeans", params.seed, codebook, state.passes))
    vectors, total, error = state.vectors.copy(), np.zeros(len(state.vectors)), 0.0
    for batch in batches(features, codebook, params, rng):
        counts, sums = assigned(batch, torch.from_numpy(vectors.astype(np.float32)).to(device))
        state.squares += 0.0 if state.passes else sum_of_squares(batch)
        error += error_beyond_squares(vectors, counts, sums)
        state.counts += counts
        total += counts
        vectors += (sums - counts[:, None] * vectors) / np.maximum(state.counts, 1)[:, None]
    finish(state, vectors, total, state.squares + error, params.normalize)


def assigned(batch: np.ndarray, vectors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts [K] and sums [K, D] of a batch, of which every process assigns its own runs."""
    counts, sums = np.zeros(len(vectors)), np.zeros(vectors.shape)
    for begin in range(rank() * SHARED_VECTORS, len(batch), world_size() * SHARED_VECTORS):
        add(batch[begin : begin + SHARED_VECTORS], vectors, counts, sums)
    add_up(counts, sums)
    return counts, sums


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
