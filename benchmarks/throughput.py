"""Where does a decoder's training spend its time? Images a second, use of the chip, the longest operations.

Run:    uv run python benchmarks/throughput.py onestep diffusion --tokenizer kmeans
        (after: uv run dvc repro codebook palette, with these in params.yaml)
Expect: for each decoder, minutes on a CPU: medians of --rounds rounds of --steps updates, with the discriminator's
        where the decoder has one. `updates`: on batches made before; `batches`: made alone; `both`: as in training, the
        next batch being made meanwhile. MFU: 10^12 operations a second of `updates` over those of a product of large
        matrices under the same autocast on the same chip. Then the operations by the chip's time.

The stage itself runs, with its loop replaced by the measurement; what it would write is thrown away.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stages.core.device import compute
from stages.core.errors import UserError
from stages.core.game import Game
from stages.core.loop import Watch, prefetch
from stages.core.params import Machine, Precision, load
from stages.core.recipe import Painting
from stages.decoder.sources import Sources
from stages.decoder.train import load_params

SIDE = 8192  # of the matrices that give the chip's rate; 512 on a CPU


class Operations(TorchDispatchMode):
    """Multiplications and additions inside the block; FlopCounterMode cannot follow the discriminator's R1."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=made)
        return made


def wait(device: torch.device) -> None:
    """Until the chip has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Iterable[Any], device: torch.device) -> float:
    """How long it takes to run through `work`."""
    wait(device)
    started = time.perf_counter()
    for _ in work:
        pass
    wait(device)
    return time.perf_counter() - started


def tflops_of_chip(device: torch.device, precision: Precision) -> float:
    """10^12 operations a second of a product of large random matrices, the median of ten."""
    side = SIDE if device.type == "cuda" else SIDE // 16
    left, right = torch.randn(2, side, side, device=device)
    with compute(device, precision):
        dtype = (left[:1] @ right).dtype
    left, right = left.to(dtype), right.to(dtype)
    times = [seconds_of((left @ right for _ in range(10)), device) / 10 for _ in range(11)][1:]
    return 2 * side**3 / statistics.median(times) / 1e12


def measure(game: Game, steps: int, rounds: int) -> None:
    """Print the figures of one decoder; where it has a discriminator, that plays in all of the measured updates."""
    optim, device, batch_at, watch = game.recipe.optim, game.device, game.batches.batch_at, Watch(game.device)
    first = min(game.recipe.gan.start_step, optim.total_steps - 1)
    made = [batch_at(first + k) for k in range(4)]

    def updates(batches: Iterable[torch.Tensor]) -> Iterator[None]:
        for pixels in batches:
            game.step(first, pixels, watch)
            yield

    def as_in_training() -> Iterator[None]:
        stream = prefetch(batch_at, 0, steps + 1)
        next(stream)  # nothing runs beside the making of the first
        return updates(pixels for _, pixels in stream)

    seconds_of(updates(made), device)  # warm up
    with Operations() as counted:
        seconds_of(updates(made[:1]), device)
    work: dict[str, Callable[[], Iterable[Any]]] = {
        "updates": lambda: updates(made[k % 4] for k in range(steps)),
        "batches": lambda: map(batch_at, range(steps)),
        "both": as_in_training,
    }
    timed = [{name: seconds_of(run(), device) / steps for name, run in work.items()} for _ in range(rounds)]
    report(game, {name: statistics.median(one[name] for one in timed) for name in work}, counted.total)
    longest(lambda: seconds_of(updates(made), device), device)


def report(game: Game, seconds: dict[str, float], flops: int) -> None:
    """Images a second, memory and MFU."""
    size, device = game.recipe.optim.batch_size, game.device
    rates = ", ".join(f"{name} {size / taken:,.4g}" for name, taken in seconds.items())
    print(f"{game.name}: {sum(p.numel() for p in game.network.parameters()):,} parameters, batches of {size}")
    print(f"  images/s: {rates}")
    if device.type == "cuda":
        print(f"  GPU memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    reached, chip = flops / seconds["updates"] / 1e12, tflops_of_chip(device, game.recipe.optim.precision)
    mfu = f"{reached:.3g} TFLOP/s; the chip {chip:.3g}: MFU {reached / chip:.1%}"
    print(f"  {flops / size / 1e9:.4g} GFLOP an image, {mfu}")


def longest(work: Callable[[], Any], device: torch.device) -> None:
    """Print the ten operations that take most of the chip's time in a few updates."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as seen:
        work()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # Operations alone: a GPU's kernels are events, too, whose time their operations have already.
    taken = {e.key: (getattr(e, own), e.count) for e in seen.key_averages() if e.device_type == DeviceType.CPU}
    total = sum(spent for spent, _ in taken.values())
    for name, (spent, count) in sorted(taken.items(), key=lambda item: -item[1][0])[:10]:
        print(f"  {spent / total:6.1%} {count:6} x {name[:90]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoders", nargs="+")
    parser.add_argument("--tokenizer", default="kmeans")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    machine = load("machine", Machine)
    for name in args.decoders:
        kind, params = load_params(name)
        if not isinstance(params, Painting):
            raise UserError(f"{name}: of kind {params.kind}; expected one that a discriminator can train")
        made = "data/images", "data/encoder", f"data/codebook/{args.tokenizer}", f"data/palette/{name}"
        measured = patch.object(Game, "play", lambda game: measure(game, args.steps, args.rounds))
        silent = patch.object(Game, "write_report")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder, measured, silent:
            kind.fit(name, Sources(*map(Path, made)), Path(folder) / name, Path(folder) / "report", params, machine)


if __name__ == "__main__":
    main()
