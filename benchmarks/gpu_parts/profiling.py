"""Where a training step spends its time: phases with the device waited for, and the longest kernels without."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.image_training import image_training
from benchmarks.gpu_parts.kernels import kernels_of, new_profiler
from benchmarks.gpu_parts.sizes import Sizes
from benchmarks.gpu_parts.token_training import token_training
from benchmarks.gpu_parts.trainer import Training, machine_of, timed_fit
from benchmarks.throughput import wait
from stages.core.hardware import Loss
from stages.core.params import Machine
from stages.core.train import Batch, load_batches

SHOWN, PROFILED = 12, 5  # kernels; steps
Seconds = dict[str, float]


def measured(name: str, function: Callable[..., Any], spent: Seconds, device: torch.device) -> Callable[..., Any]:
    """The same function; the device is waited for before and after it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        wait(device)
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            wait(device)
            spent[name] += time.perf_counter() - started

    return run


@contextmanager
def phases(warm: int, device: torch.device) -> Generator[Seconds]:
    """Seconds by phase of a `fit` in the block, from step `warm` on; "batches": with copies; "all": the sum."""
    spent: Seconds = defaultdict(float)

    class Loader(DataLoader):
        def __iter__(self) -> Any:
            batches = super().__iter__()
            fetch = measured("data", lambda: next(batches), spent, device)
            while True:
                yield fetch()

    def load(batch_at: Any, start: int, stop: int, *args: Any) -> Iterator[tuple[int, Batch]]:
        stream, began = load_batches(batch_at, start, stop, *args), 0.0
        fetch = measured("batches", lambda: next(stream), spent, device)
        for step in range(start, stop):
            if step == warm:
                wait(device)
                spent.clear()
                began = time.perf_counter()
            yield fetch()
        spent["all"] = time.perf_counter() - began

    with (
        patch("stages.core.train.DataLoader", Loader),
        patch("stages.core.train.load_batches", load),
        patch.object(Loss, "forward", measured("forward", Loss.forward, spent, device)),
        patch.object(Tensor, "backward", measured("backward", Tensor.backward, spent, device)),
    ):
        yield spent


def add_phases(training: Training, machine: Machine, device: torch.device, sizes: Sizes, figures: Figures) -> None:
    """Milliseconds per step of each phase; their sum is longer than a step in which nothing is waited for."""
    with phases(sizes.warm, device) as spent:
        timed_fit(training, machine, device, sizes.steps, sizes.warm)
    step = {name: seconds / (sizes.steps - sizes.warm) for name, seconds in spent.items()}
    whole, batches, data = (step.pop(name) for name in ("all", "batches", "data"))
    rest = whole - batches - sum(step.values())
    step = {"waiting for data": data, "copies": batches - data, **step, "clipping, AdamW, averages, the rest": rest}
    for name, seconds in step.items():
        figures.add(f"{training.name}: {name}", 1e3 * seconds, f"ms, {seconds / whole:.1%} of a step")


def add_kernels(training: Training, machine: Machine, device: torch.device, sizes: Sizes, figures: Figures) -> None:
    """The longest kernels of a few steps, and the share of the time in which any runs."""
    profiler, times = new_profiler(device), []
    first, last = sizes.warm, min(sizes.warm + PROFILED, sizes.steps - 1)

    def loss_of(model: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step in (first, last):
            wait(device)
            times.append(time.perf_counter())
            _ = profiler.start() if step == first else profiler.stop()
        return training.loss_of(model, batch, step)

    timed_fit(replace(training, loss_of=loss_of), machine, device, sizes.steps, sizes.warm)
    kernels = kernels_of(profiler, device)
    total = sum(seconds for seconds, _ in kernels.values())
    figures.add(f"{training.name}: kernels run", total / (times[1] - times[0]), "of the time")
    for number, (name, (seconds, count)) in enumerate([*kernels.items()][:SHOWN]):
        figures.note(f"{training.name}: kernel {number + 1}", f"{seconds / total:6.1%} {count:6} x {name[:110]}")


def profile(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Both trainings, as they run by default on a GPU: compiled blocks, loading processes."""
    with image_training(sizes, device) as images:
        for training, workers in ((token_training(sizes, device), 1), (images, sizes.workers)):
            machine = machine_of(device, workers, compiled=device.type == "cuda")
            add_phases(training, machine, device, sizes, figures)
            add_kernels(training, machine, device, sizes, figures)
