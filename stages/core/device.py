"""Which device and number format, decided once a process and printed with the reason."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.core.params import Precision

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str) -> torch.device:
    """`auto` takes this process's GPU where there is one, else the CPU; an absent GPU asked for by name is an error."""
    import torch

    from stages.core.distributed import local_rank

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
    """Whether the CPU multiplies in `precision`; emulated, a step of a decoder takes ten times that of fp32."""
    import torch

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
    """Matrix products in `precision` inside the block, in fp32 on a CPU without instructions for it.

    Losses belong outside the block or in `.float()`. Where a CPU trains, attention is computed step by step: for the
    few tokens of an image the backward pass of torch's fused kernel takes twice as long. Its products are in
    `precision`, too; torch would make them in fp32 at that, in two to three times the time.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    native = device.type != "cpu" or _has_instructions(precision)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision] if native else None
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of every device, in spite of its name
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()
    with plain, torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        yield
