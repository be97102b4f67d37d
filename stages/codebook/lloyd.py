"""k-means over all rows, streamed: Lloyd's iterations, or mini-batches (Sculley 2010), with a checkpoint a pass.

Memory holds a chunk of rows, the vectors and their sums, however many images there are. Every pass leaves its result
in scratch; a killed fit goes on behind the last one, and ends with the same bytes as one that was left alone.

A vector that no row chose is put beside the one that most rows chose, as faiss does with a donor drawn by lot: the two
are moved 1/1024 apart, and the rows in between decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stages.codebook.engines import initial
from stages.codebook.quantise import nearest
from stages.core import artefact
from stages.core.curves import Curves
from stages.core.rng import seed_of

if TYPE_CHECKING:
    from stages.codebook.kmeans import Params
    from stages.codebook.rows import Rows

SUM_ROWS = 8192  # rows summed in float32 before they enter the float64 sums
APART = 1 / 1024


@dataclass
class State:
    """Where a fit stands."""

    vectors: np.ndarray  # float64 [K, D]
    seen: np.ndarray  # float64 [K]: rows behind each vector so far; mini-batches only
    squares: float = 0.0  # Σ ||f||² over all rows, from the first pass
    passes: int = 0
    still: bool = False  # the last pass moved nothing
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def stream(rows: Rows, group: int, params: Params, work: Path, device: torch.device) -> tuple[torch.Tensor, Curves]:
    """float32 [K, D] for one group of rows; objective (sum of squared distances) and splits of each pass."""
    from stages.core.progress import bar

    path = work / f"kmeans-{group}.safetensors"
    advance = lloyd_pass if params.method == "lloyd" else minibatch_pass
    state = load(path) or start(rows, group, params, device)
    with bar(f"codebook {group}" if group else "codebook", params.iterations, state.passes, "pass") as progress:
        while state.passes < params.iterations and not state.still:
            advance(state, rows, group, params, device)
            save(state, path)
            progress.update()
    curves = Curves()
    for step, scalars in state.history:
        curves.log(step, **scalars)
    return torch.from_numpy(state.vectors.astype(np.float32)), curves


def start(rows: Rows, group: int, params: Params, device: torch.device) -> State:
    """Vectors clustered in memory on a seeded sample of one chunk: cheaper than as many passes over everything."""
    sample = rows.sample(group, min(rows.layout.train_rows, params.chunk_vectors), params.seed)
    vectors = initial(sample, params, device, params.start_iterations).astype(np.float64)
    return State(vectors, np.zeros(len(vectors)))


def lloyd_pass(state: State, rows: Rows, group: int, params: Params, device: torch.device) -> None:
    """One exact iteration over all train rows."""
    vectors = torch.from_numpy(state.vectors.astype(np.float32)).to(device)
    counts, sums = np.zeros(len(vectors)), np.zeros(state.vectors.shape)
    for chunk in rows.chunks("train", group, params.chunk_vectors):
        state.squares += 0.0 if state.passes else sum_of_squares(chunk)
        add(chunk, vectors, counts, sums)
    error = state.squares + beyond_squares(state.vectors, counts, sums)
    moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], state.vectors)
    finish(state, moved, counts, error, params.normalise)


def minibatch_pass(state: State, rows: Rows, group: int, params: Params, device: torch.device) -> None:
    """One look at every train row, in an order drawn for the pass: files, then rows within a chunk.

    After each batch a vector moves to the mean of all rows that ever chose it (Sculley 2010, algorithm 1). With
    `normalise` it gets unit length after the pass alone: within it, rows choose among such means, shorter than 1.
    """
    rng = np.random.default_rng(seed_of("kmeans", params.seed, group, state.passes))
    vectors, total, error = state.vectors.copy(), np.zeros(len(state.vectors)), 0.0
    for batch in batches(rows, group, params, rng):
        counts, sums = np.zeros(len(vectors)), np.zeros(vectors.shape)
        add(batch, torch.from_numpy(vectors.astype(np.float32)).to(device), counts, sums)
        state.squares += 0.0 if state.passes else sum_of_squares(batch)
        error += beyond_squares(vectors, counts, sums)
        state.seen += counts
        total += counts
        vectors += (sums - counts[:, None] * vectors) / np.maximum(state.seen, 1)[:, None]
    finish(state, vectors, total, state.squares + error, params.normalise)


def batches(rows: Rows, group: int, params: Params, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """float32 [batch_vectors, D] in a drawn order."""
    order = rng.permutation(len(rows.pieces["train"])).tolist()
    for chunk in rows.chunks("train", group, params.chunk_vectors, order):
        shuffled = rng.permutation(len(chunk))
        for begin in range(0, len(chunk), params.batch_vectors):
            yield chunk[shuffled[begin : begin + params.batch_vectors]]


def add(chunk: np.ndarray, vectors: torch.Tensor, counts: np.ndarray, sums: np.ndarray) -> None:
    """Assign rows; add them to the float64 counts [K] and sums [K, D] of their vectors, SUM_ROWS at a time."""
    from scipy.sparse import csr_array

    for begin in range(0, len(chunk), SUM_ROWS):
        part = chunk[begin : begin + SUM_ROWS]
        codes = nearest(torch.from_numpy(part).to(vectors.device), vectors).cpu().numpy()
        ones, shape = np.ones(len(part), np.float32), (len(part), len(vectors))
        sums += csr_array((ones, codes, np.arange(len(part) + 1)), shape=shape).T @ part
        counts += np.bincount(codes, minlength=len(vectors))


def sum_of_squares(chunk: np.ndarray) -> float:
    """Σ ||f||² in float64."""
    return float(np.einsum("md,md->m", chunk, chunk).sum(dtype=np.float64))


def beyond_squares(vectors: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> float:
    """What the sum of squared distances Σ ||f - c||² has beyond Σ ||f||²: Σ n ||c||² - 2 Σ c·s."""
    return float(counts @ np.square(vectors).sum(1) - 2 * np.vdot(vectors, sums))


def finish(state: State, vectors: np.ndarray, counts: np.ndarray, error: float, normalise: bool) -> None:
    """The state after a pass that led to `vectors`."""
    splits = fill_empty(vectors, counts, state.seen)
    if normalise:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    state.still = np.array_equal(vectors, state.vectors)
    state.vectors = vectors
    state.history.append((state.passes, {"objective": error, "splits": float(splits)}))
    state.passes += 1


def fill_empty(vectors: np.ndarray, counts: np.ndarray, seen: np.ndarray) -> int:
    """Give each vector without rows, in place, half of the one with most; how many there were."""
    apart = APART * np.where(np.arange(vectors.shape[1]) % 2, -1, 1)
    empty = np.flatnonzero(counts == 0)
    for code in empty:
        donor = counts.argmax()
        vectors[code] = vectors[donor] * (1 + apart)
        vectors[donor] *= 1 - apart
        counts[[code, donor]] = counts[donor] / 2
        seen[[code, donor]] = seen[donor] / 2
    return len(empty)


def save(state: State, path: Path) -> None:
    """The state in one file that appears whole."""
    from safetensors.numpy import save as to_bytes

    facts = {"squares": state.squares, "passes": state.passes, "still": state.still, "history": state.history}
    tensors = {"vectors": state.vectors, "seen": state.seen}
    artefact.write_atomically(path, to_bytes(tensors, metadata={"facts": json.dumps(facts)}))


def load(path: Path) -> State | None:
    """The state that a killed fit left, if any."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    with safe_open(path, "numpy") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        state = State(file.get_tensor("vectors"), file.get_tensor("seen"), **facts)
    print(f"resuming at pass {state.passes}", flush=True)
    return state
