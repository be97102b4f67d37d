"""The project's own `fit` on a given training, timed from one step on."""

import copy
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.throughput import wait
from stages.core.checkpoint import Checkpoint
from stages.core.hardware import process_group
from stages.core.params import Machine
from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.train import Batch, fit

LossOf = Callable[[Any, Batch, int], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Training:
    """What `fit` trains, on batches of `batch_size` images."""

    name: str
    model: nn.Module
    batch_at: Callable[[int], Batch]
    loss_of: LossOf
    batch_size: int


@dataclass
class Timed:
    """Seconds until the timed steps began, seconds of each of them, and the trained network."""

    before: float = 0.0
    step: float = 0.0
    model: nn.Module = field(default_factory=nn.Identity)


def machine_of(device: torch.device, workers: int = 0, compiled: bool = False) -> Machine:
    """The section `machine` of params.yaml."""
    return Machine(
        device=device.type, num_workers=workers, infer_batch_size=64, micro_batch_size=0, shard_above=1e12,
        recompute_activations=False, compile="on" if compiled else "off", checkpoint_share=0.01, tracker="none",
    )  # fmt: skip


def optim_of(batch_size: int, steps: int) -> Optim:
    """AdamW for so many steps in bf16, evaluated at the end alone."""
    return Optim(
        total_steps=steps, batch_size=batch_size, lr_peak=1e-4, warmup_share=0.0, weight_decay=0.05, beta2=0.98,
        clip_norm=1.0, ema_decay=0.99, eval_share=1.0, precision="bf16", seed=0,
    )  # fmt: skip


@contextmanager
def no_checkpoints() -> Generator[None]:
    """Trainings of seconds would do little else than save their first and last step."""
    with patch.object(Checkpoint, "due", return_value=False):
        yield


def timed_fit(training: Training, machine: Machine, device: torch.device, steps: int, warm: int) -> Timed:
    """Train a copy of the network; the steps from number `warm` on are timed."""
    result, began = Timed(model=copy.deepcopy(training.model).to(device)), time.perf_counter()

    def loss_of(model: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == warm:
            wait(device)
            result.before = time.perf_counter() - began
        return training.loss_of(model, batch, step)

    def evaluate(step: int, model: Any) -> dict[str, float]:
        wait(device)
        result.step = (time.perf_counter() - began - result.before) / (steps - warm)
        return {}

    with tempfile.TemporaryDirectory() as work, process_group(), no_checkpoints():
        fit(
            result.model, optim_of(training.batch_size, steps), training.batch_at, loss_of, evaluate, Curves(),
            work=Path(work), machine=machine, device=device, name=training.name, batch_keys=str,
        )  # fmt: skip
    return result
