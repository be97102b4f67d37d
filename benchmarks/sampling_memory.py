"""Peak memory of sampling against what it needs: weights, their packed copy, the cache and one step's activations.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/sampling_memory.py
Expect: for `ar` and `masked` at two sizes and several batches, each in a process of its own: peaks in MB above the
        process before it built the network; of one step with weights, packed copy and the whole cache; of a whole
        sample; and their ratio: medians of --rounds processes each, since glibc's heap differs by a tenth. 9 minutes.
"""

import argparse
import math
import multiprocessing
import re
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch

from stages.core.hardware import compute
from stages.core.params import Precision
from stages.core.runtime import keep_memory
from stages.core.transformer import for_sampling
from stages.generator import ar, masked
from stages.generator.params import PLAIN, MaskedSampling, Sampling
from stages.generator.transformer import TokenTransformer

KINDS: dict[str, Any] = {"ar": ar, "masked": masked}
SIZES = {"default": {"dim": 128, "depth": 2, "heads": 4}, "large": {"dim": 384, "depth": 8, "heads": 6}}
STEPS = 8  # of masked


def resident(name: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3  # type: ignore[index]


def forget_peak() -> None:
    """VmHWM begins again."""
    Path("/proc/self/clear_refs").write_text("5")


def sampling_of(kind: str, precision: Precision) -> Sampling:
    """Plain sampling, as of the published tables."""
    more = {"steps": STEPS, "choice_temperature": 4.5, "mask_schedule": "cosine"}
    schema = MaskedSampling if kind == "masked" else Sampling
    return schema(**{**PLAIN, "precision": precision, **(more if kind == "masked" else {})})


@torch.inference_mode()
def one_step(kind: str, network: Any, labels: torch.Tensor, sampling: Sampling) -> None:
    """What a single forward pass and draw of a sample do: the last code of `ar`, all codes of `masked`."""
    if kind == "masked":
        KINDS[kind].sample(network, labels, sampling.model_copy(update={"steps": 1}), 0)
        return
    with compute(labels.device, sampling.precision):
        packed = for_sampling(network, len(labels))
        cache = packed.new_cache(len(labels))
        for tensor in (one for own in cache for one in own):
            tensor.zero_()
        share = packed.next_logits(labels, network.num_patches - 1, cache).softmax(-1)
        share.cumsum(-1).argmax(-1)


def measure(kind: str, size: str, batch: int, tokens: int, precision: Precision, whole: bool, found: Any) -> None:
    """Puts the peak in MB of one step or of a whole sample, above the process without the network."""
    keep_memory()  # as every stage does
    torch.set_num_threads(1)
    sampling, labels = sampling_of(kind, precision), torch.arange(batch) % 10
    small = TokenTransformer(num_codes=8, num_classes=10, num_patches=4, grid=2, causal=kind == "ar", dim=32, depth=1,
                             heads=2, dropout=0.0).eval()  # fmt: skip
    KINDS[kind].sample(small, labels[:1], sampling, 0)  # what the first call of anything loads
    before = resident("VmRSS")
    network = TokenTransformer(num_codes=1032, num_classes=10, num_patches=tokens, grid=math.isqrt(tokens),
                               causal=kind == "ar", dropout=0.0, **SIZES[size]).eval()  # fmt: skip
    forget_peak()
    if whole:
        KINDS[kind].sample(network, labels, sampling, 0)
    else:
        one_step(kind, network, labels, sampling)
    found.put(resident("VmHWM") - before)


def in_a_process(*arguments: Any) -> float:
    """What `measure` puts, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    child = context.Process(target=measure, args=(*arguments, found))
    child.start()
    peak = found.get()
    child.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{'kind':8}{'size':9}{'batch':>6} {'precision':10}{'one step':>10}{'sample':>9}{'ratio':>7}")
    for kind, size, batch, precision in product(KINDS, SIZES, args.batches, ("fp32", "bf16")):
        case = (kind, size, batch, args.tokens, precision)
        peaks = [[in_a_process(*case, one) for _ in range(args.rounds)] for one in (False, True)]
        step, whole = map(statistics.median, peaks)
        print(f"{kind:8}{size:9}{batch:6} {precision:10}{step:10.0f}{whole:9.0f}{whole / step:7.2f}", flush=True)


if __name__ == "__main__":
    main()
