"""Device, number format, process group and torch's engines of data-parallel training."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache, partial
from statistics import median
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from stages.core import UserError
from stages.core.distributed import local_rank, world_size
from stages.core.params import Machine, Precision

TIMEOUT = timedelta(minutes=30)  # of a collective: a process that hangs ends the others after this time
PATIENCE = timedelta(days=7)  # of those in which processes wait while the first evaluates, hashes or publishes
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GROUPS: dict[str, dist.ProcessGroup] = {}  # on the CPU, with PATIENCE: one for waiting, one for a thread that saves


def pick_device(wanted: str) -> torch.device:
    """The device that machine.device names; `auto` is the GPU of this process, or the CPU where there is none.

    A GPU that is asked for by name and absent is a `UserError`.
    """
    gpus = torch.cuda.device_count()
    if wanted == "auto":
        wanted = f"cuda:{local_rank() % gpus}" if gpus else "cpu"
    if wanted.startswith("cuda") and (torch.device(wanted).index or 0) >= gpus:
        raise UserError(
            f"params.yaml: machine.device = {wanted!r}: this machine has {gpus} usable GPUs; use auto or cpu"
        )
    device = torch.device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP2 and the thread that pins memory ask for the current one
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"device: {device} ({name})", flush=True)
    return device


@cache
def _has_instructions(precision: Precision) -> bool:
    """True if the CPU multiplies in `precision`; emulation makes a decoder's step ten times as long as in fp32."""
    names = {
        "fp32": ["architecture"],
        "bf16": ["avx512_bf16", "amx_bf16", "bf16"],
        "fp16": ["avx512_fp16", "amx_fp16", "fp16_arith"],
    }
    has = any(torch.cpu.get_capabilities().get(name, False) for name in names[precision])
    if not has:
        print(f"precision: this CPU has no instructions for {precision}: fp32 instead", flush=True)
    return has


def dtype_of(device: torch.device, precision: Precision) -> torch.dtype:
    """The number format of matrix products: `precision`, or fp32 on a CPU without instructions for it."""
    return DTYPES[precision] if device.type != "cpu" or _has_instructions(precision) else torch.float32


@contextmanager
def compute(device: torch.device, precision: Precision) -> Generator[None]:
    """Matrix products in `precision` inside the block; fp32 on a CPU without instructions for it.

    Losses belong outside the block or in `.float()`. The unfused products of attention are in `precision`, too; by
    default torch computes them in fp32, in two to three times the time.
    """
    dtype = dtype_of(device, precision)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of every device, despite its name
    lower = dtype != torch.float32
    with attention_of(device), torch.autocast(device.type, dtype=dtype if lower else torch.bfloat16, enabled=lower):
        yield


def attention_of(device: torch.device) -> AbstractContextManager[Any]:
    """In the block, encoders compute attention without torch's fused kernel, if gradients are needed on a CPU.

    Its backward pass takes twice as long for the few tokens of an image. Other networks: core/transformer.attention.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of products of large matrices on this device, the median of five."""
    side = 8192 if device.type == "cuda" else 512  # small: every training measures it
    matrix, rates = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype), []
    for _ in range(6):
        started = time.perf_counter()
        float(torch.mm(matrix, matrix)[0, 0])  # waits for the device
        rates.append(2 * side**3 / (time.perf_counter() - started))
    return median(rates[1:])


@contextmanager
def process_group() -> Generator[None]:
    """Join the other processes; a single one is a group of its own, which torch's checkpoints ask for."""
    if world_size() == 1:
        excepthook = sys.excepthook
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        sys.excepthook = excepthook  # torch's writes a rank before every line
    else:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    for purpose in ("waiting", "saving"):
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)
        _GROUPS[purpose] = group
    try:
        yield
    finally:
        _GROUPS.clear()
        dist.destroy_process_group()


def waiting_group() -> dist.ProcessGroup:
    """The group in which processes may wait for days while one works."""
    return _GROUPS["waiting"]


def saving_group() -> dist.ProcessGroup:
    """The group of a thread that saves: collectives of two threads in one group would meet the wrong ones."""
    return _GROUPS["saving"]


def barrier() -> None:
    """Wait for every process, as long as it takes."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1), group=waiting_group())


def decided(flag: bool) -> bool:
    """What the first process decided, in all of them."""
    if world_size() == 1:
        return flag
    decision = torch.tensor([float(flag)])
    dist.broadcast(decision, 0, group=waiting_group())
    return bool(decision)


def check_agreement(what: str, fact: Any) -> None:
    """`UserError` if the processes do not all have the same `fact`, such as a step or a key of params and code."""
    if world_size() == 1:
        return
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, fact, group=waiting_group())
    if others := [number for number, other in enumerate(found) if other != found[0]]:
        raise UserError(
            f"processes 0 and {others[0]} differ in {what}: {found[0]} and {found[others[0]]}. They must see the same "
            "folder, params.yaml and code, and the same checkpoints in scratch/."
        )


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor in place by its mean over all processes, in one all-reduce."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gathered(rows: Tensor) -> Tensor:
    """[B, ...] of this process -> [B * world_size, ...] of all of them, in the order of the batch; no gradient."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class Loss(nn.Module):
    """The loss of a model as a module: DDP and FSDP2 then see one forward pass, whatever the loss calls."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Any]):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, *inputs: Any) -> Any:
        return self.loss_fn(self.model, *inputs)


def data_parallel(loss: nn.Module, shard_above: float = float("inf")) -> nn.Module:
    """The same loss, whose backward pass leaves mean gradients of all processes: by DDP, or FSDP2 for a large model.

    FSDP2 replaces the model's parameters by shards, so optimizers are made afterwards. DDP looks for unused parameters
    because it then keeps its buckets: it would order them anew after the first step of a process, and with three or
    more processes a resumed training would add gradients in another order than an uninterrupted one.
    """
    if world_size() == 1:
        return loss
    if sum(p.numel() for p in loss.parameters()) <= shard_above:
        return DistributedDataParallel(loss, forward_sync_buffers=False, find_unused_parameters=True)
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh(next(loss.parameters()).device.type, (world_size(),))
    for module in (*blocks_of(loss), loss):
        fully_shard(module, mesh=mesh)
    print(f"the network is sharded among {world_size()} processes", flush=True)
    return loss


def whole_gradients(loss: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """For one of several micro-batches: under DDP only the last averages the gradients that they add up."""
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) and not last else nullcontext()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model: the members of its lists named `blocks`."""
    lists = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for group in lists if isinstance(group, nn.ModuleList | nn.Sequential) for block in group]


def prepare_blocks(model: nn.Module, machine: Machine, device: torch.device, compiled: bool) -> None:
    """Compile the transformer blocks, and let them compute activations again in the backward pass, if asked for.

    The backward pass runs outside `compute`; torch restores autocast there, but not the kernel of attention.
    """
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), attention_of(device)))
    for block in blocks_of(model):
        plain = MethodType(type(block).forward, block)
        forward = torch.compile(plain) if compiled else plain
        block.forward = partial(again, forward) if machine.recompute_activations else forward


def compiles(machine: Machine, device: torch.device) -> bool:
    """Whether machine.compile asks for torch.compile; `UserError` where it does and there is no compiler."""
    on_gpu = device.type == "cuda"
    there = importlib.util.find_spec("triton") if on_gpu else shutil.which(os.environ.get("CXX", "c++"))
    if machine.compile == "on" and not there:
        needed = "the package triton" if on_gpu else "a C++ compiler (c++, or CXX)"
        raise UserError(f"params.yaml: machine.compile = 'on': torch.compile needs {needed}; use off")
    return machine.compile == "on" or (machine.compile == "auto" and on_gpu and bool(there))
