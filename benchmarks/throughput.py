"""Where a decoder training spends its time: images per second, model FLOPs utilization, the longest operations.

Run:    uv run python benchmarks/throughput.py onestep diffusion --tokenizer kmeans
        (after: uv run dvc repro codebook pixel_tokenizer, with these names in params.yaml)
Expect: per decoder, minutes on a CPU: medians of --rounds rounds of --steps updates, including the discriminator's.
        `updates`: with batches at hand. `batches`: loading alone. `both`: as in training, loaded ahead. MFU (model
        FLOPs utilization): FLOP/s of `updates` over that of a large matrix product in the same number format on the
        same device. Then the operations that take most time on the device.

The stage itself runs, its training loop replaced by the measurement; its outputs go to a temporary folder.
"""

import argparse
import importlib
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

from stages.core import UserError, scratch
from stages.core.gan_trainer import GanTrainer
from stages.core.hardware import dtype_of, peak_flops
from stages.core.optimizer import NonFiniteMonitor
from stages.core.params import Machine, load
from stages.core.schemas import ReconstructionLossConfig
from stages.core.train import Batch, load_batches
from stages.decoder.params import KINDS, Inputs, load_params


class Operations(TorchDispatchMode):
    """FLOPs inside the block; FlopCounterMode fails on the double backward pass of the R1 penalty."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Iterable[Any], device: torch.device) -> float:
    """Seconds to iterate over `work`."""
    wait(device)
    started = time.perf_counter()
    for _ in work:
        pass
    wait(device)
    return time.perf_counter() - started


def measure(trainer: GanTrainer, steps: int, rounds: int) -> None:
    """Print the measurements of one decoder; its discriminator, if any, is active in all measured updates."""
    device, batch_at = trainer.device, trainer.batches.batch_at
    monitor, first = NonFiniteMonitor(device), trainer.config.gan_start
    ready = [tuple(tensor.to(device) for tensor in batch_at(first + k)) for k in range(4)]

    def updates(batches: Iterable[Batch]) -> Iterator[None]:
        for batch in batches:
            trainer.step(first, batch, monitor)
            yield

    def as_in_training() -> Iterator[None]:
        stream = load_batches(batch_at, 0, steps + 1, trainer.machine, device)
        next(stream)  # the first batch is loaded while nothing else runs
        return updates(batch for _, batch in stream)

    seconds_of(updates(ready), device)  # warm up
    with Operations() as counted:
        seconds_of(updates(ready[:1]), device)
    work: dict[str, Callable[[], Iterable[Any]]] = {
        "updates": lambda: updates(ready[k % 4] for k in range(steps)),
        "batches": lambda: map(batch_at, range(steps)),
        "both": as_in_training,
    }
    timed = [{name: seconds_of(run(), device) / steps for name, run in work.items()} for _ in range(rounds)]
    report(trainer, {name: statistics.median(one[name] for one in timed) for name in work}, counted.total)
    longest(lambda: seconds_of(updates(ready), device), device)


def report(trainer: GanTrainer, seconds: dict[str, float], flops: int) -> None:
    """Print images per second, memory and MFU."""
    size, device = trainer.config.optim.batch_size, trainer.device
    rates = ", ".join(f"{name} {size / taken:,.4g}" for name, taken in seconds.items())
    print(f"{trainer.name}: {sum(p.numel() for p in trainer.network.parameters()):,} parameters, batches of {size}")
    print(f"  images/s: {rates}")
    if device.type == "cuda":
        print(f"  GPU memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    peak = peak_flops(device, dtype_of(device, trainer.config.optim.precision))
    reached = flops / seconds["updates"]
    mfu = f"{reached / 1e12:.3g} TFLOP/s of {peak / 1e12:.3g}: MFU {reached / peak:.1%}"
    print(f"  {flops / size / 1e9:.4g} GFLOP per image, {mfu}")


def longest(work: Callable[[], Any], device: torch.device) -> None:
    """Print the ten operations that take most time on the device in a few updates."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiled:
        work()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # Operations only: GPU kernels are events, too, and their operations already include their time.
    taken = {e.key: (getattr(e, own), e.count) for e in profiled.key_averages() if e.device_type == DeviceType.CPU}
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
        params = load_params(name)
        if not isinstance(params, ReconstructionLossConfig):
            raise UserError(f"{name}: of kind {params.kind}; expected a kind trained by GanTrainer")
        artifacts = ("images", "encoder", f"codebook/{args.tokenizer}", f"pixel_tokenizer/{name}")
        measured = patch.object(GanTrainer, "train", lambda trainer: measure(trainer, args.steps, args.rounds))
        silent = patch.object(GanTrainer, "write_report")
        module = importlib.import_module(KINDS[params.kind].fit)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(scratch, "SCRATCH", Path(folder) / "scratch"),
            measured,
            silent,
        ):
            outputs = Path(folder) / name, Path(folder) / "report"
            inputs = Inputs(name, *(Path("data", path) for path in artifacts), *outputs)
            module.fit(inputs, params, machine)


if __name__ == "__main__":
    main()
