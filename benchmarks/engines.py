"""k-means of vectors in memory: faiss on the CPU, faiss on a GPU and flash-kmeans on a GPU, time beside error.

Run:    uv pip install flash-kmeans && uv run --no-sync python benchmarks/engines.py      (without a GPU: faiss alone)
Expect: for two numbers of iterations per engine: seconds from vectors in the CPU's memory to centroids there, medians
        of 5 alternated runs (the CPU: one), with their range; error, the mean squared distance to the nearest centroid
        in fp32; then the time per further iteration, without start and copies. The defaults want a GPU, minutes and
        10 GB of memory; a CPU takes over a minute per iteration: --vectors 100000 --codes 1024 there.

Vectors: a seeded mixture of four times as many Gaussians of unit deviation as codes. All start from random vectors.
"""

import argparse
import statistics
import time
import warnings
from functools import partial

import numpy as np
import torch

from stages.codebook.engines import cluster_by_faiss, cluster_by_flash
from stages.codebook.params import Kmeans
from stages.codebook.quantizers import nearest
from stages.core.params import load

CPU = torch.device("cpu")


def mixture(count: int, dim: int, centers: int) -> np.ndarray:
    """float32 [count, dim]: unit noise around centers of deviation 1."""
    rng = torch.Generator().manual_seed(0)
    middle = torch.randn(centers, dim, generator=rng)
    vectors = torch.randn(count, dim, generator=rng)
    for part in vectors.split(2**16):
        part += middle[torch.randint(centers, (len(part),), generator=rng)]
    return vectors.numpy()


ENGINES = {
    "faiss, CPU": partial(cluster_by_faiss, device=CPU),
    "faiss, GPU": partial(cluster_by_faiss, device=torch.device("cuda")),
    "flash-kmeans, GPU": partial(cluster_by_flash, device=torch.device("cuda")),
}


def params_of(num_codes: int, iterations: int, seed: int) -> Kmeans:
    base = load("codebook.kmeans", Kmeans).model_dump()
    return Kmeans(**{**base, "num_codes": num_codes, "iterations": iterations, "seed": seed, "init": "random"})


def error_of(vectors: np.ndarray, centroids: torch.Tensor, device: torch.device) -> float:
    """Mean squared distance to the nearest centroid."""
    found, total = centroids.to(device), 0.0
    for part in torch.from_numpy(vectors).split(2**17):
        own = part.to(device)
        total += float((own - found[nearest(own, found)]).square().sum(dtype=torch.float64))
    return total / len(vectors)


def measured(
    vectors: np.ndarray, num_codes: int, counts: dict[str, list[int]], rounds: int, where: torch.device
) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, int], float]]:
    """Seconds and error by engine and number of iterations; round r of all has seed r, the error is of seed 0."""
    seconds: dict[tuple[str, int], list[float]] = {(engine, count): [] for engine in counts for count in counts[engine]}
    errors: dict[tuple[str, int], float] = {}
    for seed in range(rounds):
        for (engine, count), taken in seconds.items():
            if "GPU" in engine or not taken:
                started = time.perf_counter()
                centroids, _ = ENGINES[engine](vectors, params_of(num_codes, count, seed))
                taken.append(time.perf_counter() - started)
                print(f"  {engine}, {count} iterations, seed {seed}: {taken[-1]:.2f} s", flush=True)
                errors.setdefault((engine, count), error_of(vectors, centroids, where))
    return seconds, errors


def show(
    seconds: dict[tuple[str, int], list[float]], errors: dict[tuple[str, int], float], counts: dict[str, list[int]]
) -> None:
    """Medians, ranges and errors; the time per further iteration, by seed."""
    for (engine, count), taken in seconds.items():
        spread = f"{statistics.median(taken):8.2f} s ({min(taken):.2f} to {max(taken):.2f})"
        print(f"  {engine:18} {count:3} iterations {spread}, error {errors[engine, count]:.5f}")
    for engine, (few, many) in counts.items():
        pairs = zip(seconds[engine, few], seconds[engine, many], strict=True)
        each = [(longer - shorter) / (many - few) for shorter, longer in pairs]
        print(
            f"  {engine:18} {statistics.median(each):.3f} s ({min(each):.3f} to {max(each):.3f}) per further iteration"
        )


def main() -> None:
    here = [name for name in ENGINES if "GPU" not in name or torch.cuda.is_available()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=2**21)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--codes", type=int, default=8192)
    parser.add_argument("--iterations", type=int, nargs=2, default=[1, 20])
    parser.add_argument("--cpu-iterations", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=here, default=here)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="flash_kmeans")
    vectors = mixture(args.vectors, args.dim, 4 * args.codes)
    where = torch.device("cuda") if torch.cuda.is_available() else CPU
    chip = torch.cuda.get_device_name() if where.type == "cuda" else "no GPU"
    print(f"{len(vectors):,} x {args.dim}, K = {args.codes:,}; {torch.get_num_threads()} threads, {chip}", flush=True)
    counts = {name: args.cpu_iterations if "CPU" in name else args.iterations for name in args.engines}
    for name in args.engines:  # warm up; flash-kmeans compiles for these very sizes
        ENGINES[name](vectors if "GPU" in name else vectors[: args.codes], params_of(args.codes, 1, 0))
    show(*measured(vectors, args.codes, counts, args.rounds, where), counts)


if __name__ == "__main__":
    main()
