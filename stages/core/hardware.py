"""Device, number format and process group of this process."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.core import UserError
from stages.core.distributed import local_rank, world_size
from stages.core.params import Precision


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


@contextmanager
def compute(device: torch.device, precision: Precision) -> Generator[None]:
    """Matrix products in `precision` inside the block; fp32 on a CPU without instructions for it.

    Losses belong outside the block or in `.float()`. A training on a CPU computes attention without torch's fused
    kernel, whose backward pass takes twice as long for the few tokens of an image. The unfused products are in
    `precision`, too; by default torch computes them in fp32, in two to three times the time.
    """
    native = device.type != "cpu" or _has_instructions(precision)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision] if native else None
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of every device, despite its name
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()
    with plain, torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        yield


@contextmanager
def process_group() -> Generator[None]:
    """Join the other processes; does nothing for a single process."""
    if world_size() == 1:
        yield
        return
    # The timeout is long because the others wait while rank 0 publishes the result of all.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier of nccl would guess a GPU


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor in place by its mean over all processes, in one all-reduce."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
