"""A training on codes: an autoregressive generator; its speed, equal runs, FSDP2."""

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.fsdp import fully_shard
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.generator import CLASSES, generator
from benchmarks.gpu_parts.sampling import draw
from benchmarks.gpu_parts.sizes import Sizes
from benchmarks.gpu_parts.trainer import Training, machine_of, timed_fit
from stages.core.hardware import blocks_of, compute, peak_flops
from stages.core.sampling import autoregressive_loss
from stages.core.train import Batch


def token_training(sizes: Sizes, device: torch.device) -> Training:
    """Of the generator, on random codes."""

    def batch_at(step: int) -> Batch:
        rng = torch.Generator().manual_seed(step)
        codes = torch.randint(sizes.num_codes, (sizes.token_batch, sizes.patches), generator=rng)
        return torch.randint(CLASSES, (sizes.token_batch,), generator=rng), codes

    def loss_of(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with compute(device, "bf16"):
            return autoregressive_loss(model, *batch, torch.Generator(), 0.0), {}

    return Training("codes", generator(sizes), batch_at, loss_of, sizes.token_batch)


def step_flops(sizes: Sizes) -> int:
    """Operations of one step: three forward passes; attention counts all pairs of positions, though half are masked."""
    network = generator(sizes, "meta")
    codes = torch.zeros(sizes.token_batch, sizes.patches, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(codes[:, 0], codes)
    return 3 * counter.get_total_flops()


def reset_memory(device: torch.device) -> None:
    """From here on the peak counts anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def add_memory(figures: Figures, name: str, device: torch.device) -> None:
    """The peak since `reset_memory`."""
    if device.type == "cuda":
        figures.add(f"{name}: memory", torch.cuda.max_memory_allocated(device) / 1e9, "GB")


def training(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Speed, MFU and memory, eager and, on a GPU, compiled."""
    own, peak, flops = token_training(sizes, device), peak_flops(device, torch.bfloat16), step_flops(sizes)
    figures.add("parameters", sum(p.numel() for p in own.model.parameters()) / 1e6, "million")
    figures.add("operations of a step", flops / 1e12, "TFLOP")
    for name in ("eager", "compiled") if device.type == "cuda" else ("eager",):
        reset_memory(device)
        timed = timed_fit(own, machine_of(device, 1, name == "compiled"), device, sizes.steps, sizes.warm)
        figures.add(f"{name}: a step", 1e3 * timed.step, "ms")
        figures.add(f"{name}: codes", own.batch_size * sizes.patches / timed.step, "codes/s")
        figures.add(f"{name}: MFU of measured {peak / 1e12:.4g} TFLOP/s", flops / timed.step / peak, "")
        figures.add(f"{name}: set-up and the first {sizes.warm} steps", timed.before, "s")
        add_memory(figures, name, device)
    figures.add("graphs compiled", counters["stats"]["unique_graphs"], "")


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of two networks' weights."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


def twins(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Two equal trainings, eager and compiled; two equal samplings, and one sample at a time."""
    own = token_training(sizes, device)
    for name in ("eager", "compiled") if device.type == "cuda" else ("eager",):
        machine = machine_of(device, 0, name == "compiled")
        first, second = (timed_fit(own, machine, device, sizes.twin_steps, 1).model for _ in range(2))
        figures.add(f"{name}: largest difference of equal trainings", difference(first, second), "")
        figures.add(f"{name}: largest change by training", difference(first, own.model.to(device)), "")
    codes = [draw(own.model, max(sizes.sample_batches), "bf16") for _ in range(2)]
    figures.add("equal codes of equal samplings", float((codes[0] == codes[1]).float().mean()), "")
    alone = draw(own.model, 1, "bf16")
    figures.add("equal codes alone and in a batch", float((codes[0][:1] == alone).float().mean()), "")
    exact = draw(own.model, max(sizes.sample_batches), "fp32")
    figures.add("equal codes in bf16 and fp32", float((codes[0] == exact).float().mean()), "")


def shard(loss: nn.Module, shard_above: float) -> nn.Module:
    """What `data_parallel` does with a large network, also for a single process."""
    mesh = dist.init_device_mesh(next(loss.parameters()).device.type, (1,))
    for module in (*blocks_of(loss), loss):
        fully_shard(module, mesh=mesh)
    return loss


@contextmanager
def group_of(device: torch.device) -> Generator[None]:
    """The group of one process for tensors on the device; `fit`'s own is on the CPU alone."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sharded(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """A step, memory and weights under FSDP2, beside those of the plain training."""
    own, found = token_training(sizes, device), {}
    for name in ("plain", "FSDP2"):
        reset_memory(device)
        with patch("stages.core.train.data_parallel", shard if name == "FSDP2" else lambda loss, shard_above: loss):
            with patch("benchmarks.gpu_parts.trainer.process_group", lambda: group_of(device)):
                found[name] = timed_fit(own, machine_of(device), device, sizes.steps, sizes.warm)
        figures.add(f"{name}: a step", 1e3 * found[name].step, "ms")
        add_memory(figures, name, device)
    figures.add("largest difference of weights", difference(found["plain"].model, found["FSDP2"].model), "")
