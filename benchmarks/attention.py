"""Training steps of `ar` and `masked` on a CPU by how attention is computed: written out, or by one of torch's kernels.

Run:    OMP_NUM_THREADS=2 uv run python -m benchmarks.attention [--precision fp32] [--codes 2048]
Expect: per kind the time of a step as a multiple of the first one's, medians of --rounds alternated rounds of 15 steps;
        1 minute. Networks of params.yaml (2 layers, 128 channels), batches of 16, 64 places; half of them masked.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.core import transformer
from stages.core.hardware import compute
from stages.core.params import Precision
from stages.generator.params import load_params
from stages.generator.transformer import TokenTransformer

BATCH, GRID, STEPS = 16, 8, 15
Attend = Callable[..., Tensor]


def kernel(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, sees: Tensor | None, causal: bool) -> Tensor:
    """Attention by one of torch's kernels."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, sees, is_causal=causal)


WAYS: dict[str, Attend] = {
    "written out": transformer.attention,
    "torch, unfused": partial(kernel, SDPBackend.MATH),
    "torch, fused": partial(kernel, SDPBackend.FLASH_ATTENTION),
}


@contextmanager
def attending(way: Attend) -> Iterator[None]:
    """All blocks attend this way, also in the backward pass."""
    with patch.object(transformer, "attention", way):
        yield


def training(causal: bool, num_codes: int, precision: Precision) -> Callable[[], None]:
    """A step of a new network: forward, backward, update."""
    torch.manual_seed(0)
    model, device = load_params("ar").model, torch.device("cpu")
    size = {"num_codes": num_codes, "num_classes": 10, "num_patches": GRID**2, "grid": GRID}
    network = TokenTransformer(**size, **model.network(), causal=causal)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    labels, codes = torch.arange(BATCH) % 10, torch.randint(0, num_codes, (BATCH, GRID**2))
    at = None if causal else torch.rand(codes.shape) < 0.5
    wanted = codes.flatten() if at is None else codes[at]

    def step() -> None:
        with compute(device, precision):
            logits = network(labels, codes, at)
        F.cross_entropy(logits.flatten(0, -2), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def milliseconds(step: Callable[[], None], rounds: int) -> dict[str, list[float]]:
    """Of a step, way by way, in alternated rounds after one step that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            with attending(way):
                step()
                started = time.perf_counter()
                for _ in range(STEPS):
                    step()
                taken[name].append(1e3 * (time.perf_counter() - started) / STEPS)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {args.precision}; medians of {args.rounds} alternated rounds")
    for kind, causal in (("ar", True), ("masked", False)):
        taken = milliseconds(training(causal, args.codes, args.precision), args.rounds)
        base = statistics.median(taken["written out"])
        for name, values in taken.items():
            spread = f"{min(values):.1f} to {max(values):.1f}"
            middle = statistics.median(values)
            print(f"  {kind:8} {name:16} {middle / base:6.2f}   {middle:6.1f} ms ({spread})", flush=True)


if __name__ == "__main__":
    main()
