"""k-means on real patch features: time and error of ours and of the peers, at equal points and at equal error.

Run:    OMP_NUM_THREADS=1 uv run --group bench python benchmarks/kmeans.py        (after: uv run dvc repro features)
Expect: for each K, medians of 5 alternated runs on the digits' 96,000 features; minutes. Options: --codes, --rounds.

All points are seen in every iteration, from random points as a start, except where the name says otherwise. Time is
that of the CPU: on one thread the clock's, less what others who share the machine take. Error is the mean squared
distance of all vectors to the nearest centroid, by faiss. "Equal error": each has the fewest iterations that bring it
to the error of the reference, faiss.Kmeans, with seed 0. A peer that takes three times the reference's time is
measured once.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from stages.codebook.engines import cluster_by_faiss
from stages.codebook.kmeans_features import Features, Layout
from stages.codebook.params import Kmeans
from stages.codebook.streaming import stream
from stages.core.params import load
from stages.features.reader import FeatureSplit

Run = Callable[[np.ndarray, int, int, int], np.ndarray]  # points, K, iterations, seed -> centroids
CPU = torch.device("cpu")
REFERENCE = "faiss.Kmeans, as engine: faiss calls it"


def ours_params(num_codes: int, iterations: int, seed: int, **changes: Any) -> Kmeans:
    """The section `kmeans` of params.yaml with these values."""
    base = load("codebook.kmeans", Kmeans).model_dump()
    sizes = {"num_codes": num_codes, "iterations": iterations, "seed": seed, "init": "random"}
    return Kmeans(**{**base, **sizes, **changes})


def by_faiss(points: np.ndarray, num_codes: int, iterations: int, seed: int) -> np.ndarray:
    return cluster_by_faiss(points, ours_params(num_codes, iterations, seed), CPU)[0].numpy()


def streamed(points: np.ndarray, num_codes: int, iterations: int, seed: int, **changes: Any) -> np.ndarray:
    """Our streamed methods, with their checkpoints, on features in memory instead of files."""
    patches = 64
    shape = Layout([0], 1, patches, points.shape[1], False, False, {"train": len(points) // patches, "val": 0})
    images = points.reshape(-1, 1, patches, points.shape[1])
    parts: list[Any] = [partial(iter, [part]) for part in np.array_split(images, 8)]
    features = Features(shape, {"train": parts, "val": []}, False)
    params = ours_params(num_codes, iterations, seed, **changes)
    with tempfile.TemporaryDirectory() as work:
        return stream(features, 0, params, Path(work), CPU)[0].numpy()


def by_superkmeans(fraction: float, points: np.ndarray, num_codes: int, iterations: int, seed: int) -> np.ndarray:
    from superkmeans import SuperKMeans

    peer = SuperKMeans(
        num_codes, points.shape[1], hierarchical=False, iters=iterations, sampling_fraction=fraction, seed=seed,
        max_points_per_cluster=len(points), n_threads=torch.get_num_threads(), early_termination=False,
    )  # fmt: skip
    return np.ascontiguousarray(peer.train(points))


def by_faiss_super(points: np.ndarray, num_codes: int, iterations: int, seed: int) -> np.ndarray:
    peer: Any = faiss.SuperKMeans(points.shape[1], num_codes)
    peer.cp.niter, peer.cp.seed, peer.cp.max_points_per_centroid = iterations, seed, len(points)
    peer.train(points)
    return faiss.vector_to_array(peer.centroids).reshape(num_codes, -1)


def by_scikit_learn(points: np.ndarray, num_codes: int, iterations: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    peer = KMeans(num_codes, init="random", n_init=1, max_iter=iterations, tol=0, random_state=seed)
    return peer.fit(points).cluster_centers_


def by_scikit_learn_batches(points: np.ndarray, num_codes: int, iterations: int, seed: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    peer = MiniBatchKMeans(
        num_codes, init="random", n_init=1, max_iter=iterations, batch_size=8192, random_state=seed,
        max_no_improvement=None, init_size=3 * num_codes,
    )  # fmt: skip
    return peer.fit(points).cluster_centers_


RUNS: dict[str, Run] = {
    REFERENCE: by_faiss,
    "ours, lloyd from random points": partial(streamed, method="lloyd", start_iterations=0),
    "ours, lloyd, started as in params.yaml": partial(streamed, method="lloyd", init="kmeans++"),
    "ours, minibatch, started as in params.yaml": partial(streamed, method="minibatch", init="kmeans++"),
    "superkmeans, all points": partial(by_superkmeans, 1.0),
    "superkmeans, its default sub-sample of 0.3": partial(by_superkmeans, 0.3),
    "faiss.SuperKMeans": by_faiss_super,
    "scikit-learn KMeans": by_scikit_learn,
    "scikit-learn MiniBatchKMeans": by_scikit_learn_batches,
}


CONTENDERS = [name for name in RUNS if name != REFERENCE]


def error_of(points: np.ndarray, centroids: np.ndarray) -> float:
    """Mean squared distance to the nearest centroid."""
    return float(faiss.knn(points, np.ascontiguousarray(centroids, np.float32), 1)[0].mean())


def timed(run: Run, points: np.ndarray, num_codes: int, iterations: int, seed: int) -> tuple[float, float]:
    """CPU seconds, of all threads, and error of one run."""
    started = time.process_time()
    centroids = run(points, num_codes, iterations, seed)
    return time.process_time() - started, error_of(points, centroids)


def alternated(points: np.ndarray, num_codes: int, counts: dict[str, int], rounds: int) -> dict[str, list[float]]:
    """Median seconds and error of each run with its count of iterations; round r of all has seed r."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in counts}
    for seed in range(rounds):
        for name, runs in found.items():
            if seed == 0 or runs[0][0] < 3 * found[REFERENCE][0][0]:
                runs.append(timed(RUNS[name], points, num_codes, counts[name], seed))
    return {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}


def fewest_iterations(name: str, target: float, points: np.ndarray, num_codes: int, most: int) -> int | None:
    """By bisection: after how many the error, with seed 0, is within the target; None if `most` are too few."""
    low, high = 0, most + 1
    while high - low > 1:
        count = (low + high) // 2
        reached = timed(RUNS[name], points, num_codes, count, 0)[1] <= target
        low, high = (low, count) if reached else (count, high)
    return high if high <= most else None


def equal_iterations(points: np.ndarray, num_codes: int, iterations: int, rounds: int) -> None:
    """Print time and error of all runs for one number of codes."""
    counts = dict.fromkeys(RUNS, iterations)
    show(f"equal iterations ({iterations})", alternated(points, num_codes, counts, rounds), counts)


def equal_error(points: np.ndarray, num_codes: int, iterations: int, rounds: int) -> None:
    """Print the contenders' times for the error of the reference."""
    target, counts = 1.001 * timed(RUNS[REFERENCE], points, num_codes, iterations, 0)[1], {REFERENCE: iterations}
    for name in CONTENDERS:
        if count := fewest_iterations(name, target, points, num_codes, 16 * iterations // 10):
            counts[name] = count
        else:
            print(f"  {name}: not at that error after {16 * iterations // 10} iterations")
    show("equal error (to 0.1 % with seed 0)", alternated(points, num_codes, counts, rounds), counts)


def show(title: str, results: dict[str, list[float]], counts: dict[str, int]) -> None:
    """One table, the fastest first; ratios are to the reference."""
    base, target = results[REFERENCE]
    print(f"  {title:45} {'CPU s':>7} {'ratio':>6} {'error':>8} {'ratio':>6} iterations")
    for name, (seconds, error) in sorted(results.items(), key=lambda item: item[1]):
        ratios = f"{seconds:7.2f} {seconds / base:6.2f} {error:8.4f} {error / target:6.3f}"
        print(f"  {name:45} {ratios} {counts[name]:10}", flush=True)


TABLES = {"iterations": equal_iterations, "error": equal_error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"))
    parser.add_argument("--codes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=[*TABLES], default=[*TABLES])
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")  # that it has not converged, which is asked for
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    points = np.concatenate(list(FeatureSplit(args.features, "train")))
    points = points.astype(np.float32)
    print(f"{threads} threads; medians of {args.rounds} alternated runs, seeds 0 to {args.rounds - 1}")
    with threadpool_limits(threads):
        for num_codes in args.codes:
            print(f"K = {num_codes:,}, {len(points):,} x {points.shape[1]}")
            alternated(points[:16384], num_codes, dict.fromkeys(RUNS, 1), 1)  # warm up
            for table in args.tables:
                TABLES[table](points, num_codes, args.iterations, args.rounds)


if __name__ == "__main__":
    main()
