"""The Fréchet distance against torch-fidelity's, from features to the number.

Run:    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 uv run python benchmarks/frechet.py
Expect: for each size, medians of 5 alternated runs in CPU seconds, the ratio, the relative difference of the distances;
        three minutes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from stages.evaluate.frechet import fid


def theirs(features: Tensor, reference: Tensor) -> float:
    """torch-fidelity's."""
    statistics_of = [fid_features_to_statistics(one.double()) for one in (features, reference)]
    return fid_statistics_to_metric(*statistics_of, verbose=False)[KEY_METRIC_FID]


WAYS: dict[str, Callable[[Tensor, Tensor], float]] = {"ours": fid, "torch-fidelity": theirs}


def correlated(count: int, dim: int, seed: int) -> Tensor:
    """float32 [count, dim] with variances over four decades."""
    rng, mixing = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    mix = torch.randn(dim, dim, generator=mixing) / dim**0.5 * torch.logspace(-2, 0, dim)
    return torch.randn(count, dim, generator=rng) @ mix + 0.01 * seed


def compare(count: int, dim: int, rounds: int) -> None:
    """Print medians, ratio and difference."""
    features, reference = correlated(count, dim, 1), correlated(count, dim, 2)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in WAYS.items():
            started = time.process_time()
            found[name] = way(features, reference)
            taken[name].append(time.process_time() - started)
    median = {name: statistics.median(values) for name, values in taken.items()}
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in median.items())
    difference = abs(found["ours"] / found["torch-fidelity"] - 1)
    ratio = median["ours"] / median["torch-fidelity"]
    print(f"{count:,} x {dim}: {seconds}; ratio {ratio:.2f}; relative difference {difference:.0e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["5000x128", "2000x512", "5000x2048"], metavar="COUNTxDIM")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for size in args.sizes:
        compare(*map(int, size.split("x")), args.rounds)


if __name__ == "__main__":
    main()
