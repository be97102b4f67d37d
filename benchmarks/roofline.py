"""Sampling beside its roofline: tokens per second of every kind of generator, and what the processor allows at most.

Run:    OMP_NUM_THREADS=1 uv run python -m benchmarks.roofline [--batch 1 50] [--precision bf16]
        OMP_NUM_THREADS=1 uv run python -m benchmarks.roofline --generators data/generator/kmeans-*
Expect: per batch size a row for each kind: tokens per second, medians of --rounds alternated rounds; operations and
        bytes of its products per token, as torch ran them; tokens per second at the most by each of the two, and the
        share reached of the lower one. Untrained networks of the scenes' size, 2 minutes; or trained generators, which
        draw as params.yaml says.

The limits are those of large products in that format and of a copy of 256 MB, measured here first. Small networks stay
in the caches of a CPU, which are faster than its memory: there the share may exceed 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.group_decoding import SHAPE
from stages.core.code import import_kind
from stages.core.hardware import DTYPES, peak_flops
from stages.generator.alternating_params import load_sampling
from stages.generator.open_network import open_network
from stages.generator.params import KINDS
from stages.generator.transformer import build_network

COPIED = 2**28  # bytes
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "_linear_pointwise", "_mkl_linear")
ATTENTION = ("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")


@dataclass(frozen=True)
class Drawing:
    """Draws `tokens` codes."""

    work: Callable[[], Any]
    tokens: int


class Counted(TorchDispatchMode):
    """Operations of all products inside the block, and bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in PRODUCTS or name in ATTENTION:
            given = [one for one in args if isinstance(one, Tensor)]
            out = found if isinstance(found, Tensor) else found[0]
            self.flops += (
                4 * out.numel() * given[1].shape[2] if name in ATTENTION else 2 * out.numel() * inner(name, given)
            )
            self.bytes += sum(one.nbytes for one in [*given, out] if not one.is_mkldnn) + packed_bytes(given, out)
        return found


def inner(name: str, given: list[Tensor]) -> int:
    """The length of the sums of a product; the first tensor of `addmm` and `baddbmm` is added to it."""
    return given[1 if name in ("addmm", "baddbmm") else 0].shape[-1]


def packed_bytes(given: list[Tensor], out: Tensor) -> int:
    """Bytes of oneDNN's weights, whose storage torch does not know: as many numbers, of the result's format."""
    return sum(one.numel() * out.element_size() for one in given if one.is_mkldnn)


def untrained(batch: int, precision: str) -> dict[str, Drawing]:
    """Every kind at the scenes' size, with its plain settings."""
    found, labels = {}, torch.arange(batch) % SHAPE["num_classes"]
    for name, entry in KINDS.items():
        torch.manual_seed(0)
        kind, sampling = import_kind(entry.module), entry.plain.model_copy(update={"precision": precision})
        network = build_network(kind, {**SHAPE, "causal": kind.CAUSAL}).eval()
        found[name] = Drawing(
            lambda kind=kind, network=network, sampling=sampling: kind.sample(network, labels, sampling, 0),
            batch * network.num_patches,
        )
    return found


def trained(folders: list[Path], batch: int, precision: str) -> dict[str, Drawing]:
    """Generator artifacts with the settings of params.yaml."""
    found = {}
    for folder in folders:
        network, config, kind = open_network(folder, "cpu")
        sampling = load_sampling(config["name"], config["kind"]).model_copy(update={"precision": precision})
        labels = torch.arange(batch) % max(1, network.num_classes)
        found[folder.name] = Drawing(
            lambda kind=kind, network=network, labels=labels, one=sampling: kind.sample(network, labels, one, 0),
            batch * network.num_patches,
        )
    return found


def seconds_of(drawings: dict[str, Drawing], rounds: int) -> dict[str, float]:
    """Medians of alternated rounds after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in drawings}
    for _ in range(rounds + 1):
        for name, one in drawings.items():
            started = time.perf_counter()
            one.work()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def copied_per_second() -> float:
    """Bytes per second that a copy reads and writes together."""
    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    [seconds] = seconds_of({"copy": Drawing(lambda: target.copy_(source), 1)}, 5).values()
    return 2 * COPIED / seconds


def show(drawings: dict[str, Drawing], rounds: int, flops: float, copied: float) -> None:
    """Print the table of one batch size."""
    print(f"  {'':28} tokens/s   MFLOP/token   MB/token   at most by FLOP, by bytes   share")
    for name, seconds in seconds_of(drawings, rounds).items():
        with Counted() as counted:
            drawings[name].work()
        tokens = drawings[name].tokens
        rate, most = tokens / seconds, (tokens * flops / counted.flops, tokens * copied / counted.bytes)
        row = f"{rate:8.0f} {counted.flops / tokens / 1e6:13.2f} {counted.bytes / tokens / 1e6:10.3f}"
        print(f"  {name:28} {row} {most[0]:14.0f} {most[1]:12.0f} {rate / min(most):9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generators", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    flops, copied = peak_flops(torch.device("cpu"), DTYPES[args.precision]), copied_per_second()
    print(f"{torch.get_num_threads()} threads, {args.precision}: {flops / 1e9:.0f} GFLOP/s, {copied / 1e9:.1f} GB/s")
    for batch in args.batch:
        print(f"batch {batch}")
        makers = (
            trained(args.generators, batch, args.precision) if args.generators else untrained(batch, args.precision)
        )
        show(makers, args.rounds, flops, copied)


if __name__ == "__main__":
    main()
