"""Sampling in groups: CPU time of `parallel_ar` by its number of steps, beside `ar` and `ar_bits` of the same size.

Run:    OMP_NUM_THREADS=1 uv run python -m benchmarks.group_decoding [--batch 1 50] [--top-p 0.95]
Expect: per batch size, CPU time of each contender as a multiple of the first one's, medians of --rounds alternated
        rounds; 2 minutes. Untrained networks of the scenes' size (2 layers, 128 channels, 2,048 codes, 8 x 8 places)
        draw in bf16 with guidance, so every step runs twice the batch.
"""

import argparse
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from benchmarks.sampling import alternated
from stages.generator import ar, ar_bits, parallel_ar
from stages.generator.params import PLAIN, BitSampling, ParallelSampling, Sampling
from stages.generator.transformer import build_network

SIZE = {"num_codes": 2048, "num_classes": 10, "num_patches": 64, "grid": 8, "dim": 128, "depth": 2, "heads": 4}
SHAPE = {**SIZE, "dropout": 0.0, "causal": True, "positions": "rotary", "local": 0}


def contenders(batch: int, steps: list[int], **changes: Any) -> dict[str, Callable[[], Any]]:
    """Samplers of `batch` images by name: parallel_ar in each number of steps, then the others."""
    plain, labels = {**PLAIN, "precision": "bf16", "guidance": 1.5, **changes}, torch.arange(batch) % 10

    def sampler(kind: ModuleType, *settings: Sampling) -> list[Callable[[], Any]]:
        torch.manual_seed(0)
        network = build_network(kind, SHAPE).eval()
        return [lambda one=one: kind.sample(network, labels, one, 0) for one in settings]

    groups = [ParallelSampling(**plain, steps=count, schedule="arccos") for count in steps]
    work = dict(zip((f"parallel_ar, {count} steps" for count in steps), sampler(parallel_ar, *groups), strict=True))
    [work["ar"]], [work["ar_bits, 4 steps"]] = (
        sampler(ar, Sampling(**plain)), sampler(ar_bits, BitSampling(**plain, bit_steps=4))
    )  # fmt: skip
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 32, 16, 8])
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; medians of {args.rounds} alternated rounds; top-p {args.top_p}")
    for batch in args.batch:
        print(f"batch {batch}")
        alternated(contenders(batch, args.steps, top_p=args.top_p), args.rounds)


if __name__ == "__main__":
    main()
