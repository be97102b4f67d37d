"""The training loop and its parts. Every batch is a function of its step, so a resumed training continues exactly."""

import copy
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import stages
from stages.core import UserError
from stages.core.checkpoint import Checkpoint
from stages.core.distributed import micro_batch, rank, seed_of, share_number
from stages.core.hardware import (
    Loss,
    average,
    barrier,
    compiles,
    data_parallel,
    dtype_of,
    peak_flops,
    prepare_blocks,
    whole_gradients,
)
from stages.core.optimizer import Ema, NonFiniteMonitor, Scalars, adamw, clip, lr_at, mean_of, set_lr
from stages.core.params import Machine
from stages.core.progress import Bar, bar
from stages.core.results import Curves
from stages.core.schemas import Optim

Batch = tuple[Tensor, ...]  # each [B, ...]


class StepBatches(Dataset[Batch | UserError]):
    """Batches by the number of their step."""

    def __init__(self, batch_at: Callable[[int], Batch]):
        self.batch_at = batch_at

    def __getitem__(self, index: int) -> Batch | UserError:
        """An error is a value: raised in a loading process it would arrive with its traceback as its message."""
        try:
            return self.batch_at(index)
        except UserError as error:
            return error


def load_batches(
    batch_at: Callable[[int], Batch], start: int, stop: int, machine: Machine, device: torch.device
) -> Iterator[tuple[int, Batch]]:
    """(step, batch on the device) per step, made ahead by machine.num_workers processes with one thread each.

    `batch_at` gives tensors on the CPU, and may draw from seeds of the step alone, so that the number of processes and
    the place where a training resumes change nothing.
    """
    on_gpu = device.type == "cuda"
    workers: dict[str, Any] = {"num_workers": min(machine.num_workers, stop - start, free_cores())}
    if workers["num_workers"]:
        workers |= {"multiprocessing_context": "fork", "worker_init_fn": lambda _: stages.tie_to_parent()}
    loader = DataLoader(
        StepBatches(batch_at), sampler=range(start, stop), batch_size=None, pin_memory=on_gpu,
        generator=torch.Generator(), **workers,
    )  # fmt: skip
    for step, batch in enumerate(loader, start):
        if isinstance(batch, UserError):
            raise batch
        yield step, tuple(tensor.to(device, non_blocking=True) for tensor in batch)


def free_cores() -> int:
    """Cores for loading processes: this process's part of those of the machine; 0 where fork is not safe."""
    if sys.platform != "linux":
        return 0
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def micro_batches(batch: Batch, size: int) -> list[Batch]:
    """A share in equal parts of at most `size` rows; in one part for size 0."""
    rows = len(batch[0])
    count = next(n for n in range(-(-rows // size) if size else 1, rows + 1) if rows % n == 0)
    return list(zip(*(tensor.chunk(count) for tensor in batch), strict=True))


def add_gradients(loss_of: nn.Module, batch: Batch, step: int, optim: Optim, size: int) -> tuple[Tensor, Scalars]:
    """Leave the gradients of the mean loss over the batch; return the loss and scalars of this process's share.

    Each share draws dropout from a seed of its own, so with dropout the number of shares changes the result.
    """
    parts, results = micro_batches(batch, size), []
    for number, part in enumerate(parts):
        with micro_batch(number, len(parts)), whole_gradients(loss_of, last=number + 1 == len(parts)):
            torch.manual_seed(seed_of("fit", optim.seed, step) + share_number())
            loss, scalars = loss_of(part, step)
            (loss / len(parts)).backward()
        results.append({"loss": loss.detach(), **scalars})
    means = mean_of(results)
    return means.pop("loss"), means


class Speed:
    """Images per second and MFU of a training, for the progress bar.

    MFU = operations per step * steps per second / operations per second of products of large matrices on this device,
    in the same number format. Operations are those of the network's linear maps and convolutions for the share of this
    process, of which a multiplication with an addition counts as two; a step counts three forward passes, and
    activations that are computed again count again.
    """

    def __init__(self, model: nn.Module, optim: Optim, device: torch.device):
        self.batch_size, self.flops = optim.batch_size, 0
        self.peak = peak_flops(device, dtype_of(device, optim.precision))
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        self.hooks = [layer.register_forward_hook(self._count) for layer in layers]

    def _count(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.flops += 2 * output.numel() * layer.get_parameter("weight")[0].numel()

    def counted(self) -> bool:
        """True once: the operations so far are those of the first step."""
        first = bool(self.hooks)
        while self.hooks:
            self.hooks.pop().remove()
        return first

    def shown(self, progress: Bar) -> dict[str, str]:
        """What the bar shows beside the curves."""
        facts = progress.format_dict  # whose rate is None before the bar is first drawn
        per_sec = facts["rate"] or (facts["n"] - facts["initial"]) / max(facts["elapsed"], 1e-9)
        mfu = 3 * self.flops * per_sec / self.peak
        return {"images/s": f"{self.batch_size * per_sec:.4g}", "MFU": f"{mfu:.2g}"}


def fit(
    model: nn.Module,
    optim: Optim,
    batch_at: Callable[[int], Batch],
    loss_fn: Callable[[Any, Batch, int], tuple[Tensor, Scalars]],
    evaluate: Callable[[int, Any], dict[str, float]],
    curves: Curves,
    *,
    work: Path,
    machine: Machine,
    device: torch.device,
    name: str,
    batch_keys: Callable[[int], Any],
) -> None:
    """Train `model` to its averaged weights. Continues from a checkpoint in `work`, bit-identical on a CPU.

    batch_at(step) makes this process's share of a batch, on the CPU; loss_fn(model, batch, step) returns its mean loss
    and scalars for the curves, on the device; evaluate(step, averaged model) returns more scalars, after every
    `eval_share` of the steps and at the end. `name` labels the progress bar and enters no seed.
    What learns is a copy, perhaps sharded; `model` carries the averaged weights. The first process evaluates and logs
    for all. A training may resume with another number of processes.
    """
    trained = copy.deepcopy(model)
    prepare_blocks(trained, machine, device, compiled=False)
    compiled = compiles(machine, device)
    loss_of = data_parallel(Loss(trained, loss_fn), machine.shard_above)
    optimizer, ema, start = adamw(trained, optim), Ema(trained, optim.ema_decay), 0
    checkpoint = Checkpoint(work, machine.checkpoint_share, {"model": trained}, {"model": optimizer}, {"model": ema})
    if state := checkpoint.load():
        start, curves.rows = state["step"], [(step, scalars) for step, scalars in state["curves"]]
    curves.follow(machine.tracker, work)
    monitor, speed = NonFiniteMonitor(device), Speed(trained, optim, device)
    with checkpoint, bar(name, optim.total_steps, start, "step") as progress:
        for step, batch in load_batches(batch_at, start, optim.total_steps, machine, device):
            set_lr(optimizer, lr := lr_at(step, optim))
            trained.train()
            loss, scalars = add_gradients(loss_of, batch, step, optim, machine.micro_batch_size)
            norm = clip(trained, optim.clip_norm)
            monitor.update(step, loss, norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(trained, step)
            if speed.counted() and compiled:  # hooks would be compiled, too, anew for each block
                prepare_blocks(trained, machine, device, compiled=True)
            done = step + 1
            progress.update()
            if done % optim.eval_every == 0 or done == optim.total_steps:
                monitor.check(batch_keys)
                average([loss, *scalars.values()])
                ema.copy_to(model)
                if rank() == 0:
                    scores = evaluate(done, model.eval())
                    curves.log(done, lr=lr, loss=float(loss), **{k: float(v) for k, v in scalars.items()}, **scores)
                    shown = {k: f"{v:.4g}" for k, v in curves.last().items()}
                    progress.set_postfix(shown | speed.shown(progress), refresh=False)
                barrier()
            if checkpoint.due(done == optim.total_steps):
                monitor.check(batch_keys)
                checkpoint.save({"step": done, "curves": [*curves.rows]})
    ema.copy_to(model)
    model.eval()
