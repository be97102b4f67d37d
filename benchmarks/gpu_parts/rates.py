"""What the device can do at most: products, copies on it and to it."""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.sizes import Sizes
from benchmarks.throughput import wait
from stages.core.hardware import peak_flops


def seconds_of(work: Callable[[], Any], device: torch.device, rounds: int = 7) -> float:
    """The median of several rounds after one that is not counted."""
    taken = []
    for _ in range(rounds + 1):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def copy_rate(sizes: Sizes, device: torch.device) -> float:
    """Bytes per second that a copy on the device reads and writes together."""
    source = torch.zeros(sizes.matrix_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * sizes.matrix_bytes / seconds_of(lambda: target.copy_(source), device)


def device_rates(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Name, products per number format, copies; pinned memory against plain for one batch of images."""
    figures.note("name", torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU")
    figures.note("torch", torch.__version__)
    figures.add("cores", len(os.sched_getaffinity(0)), "")
    for dtype in (torch.bfloat16, torch.float32):
        figures.add(f"products in {str(dtype).removeprefix('torch.')}", peak_flops(device, dtype) / 1e12, "TFLOP/s")
    figures.add("copies on the device, read and written", copy_rate(sizes, device) / 1e9, "GB/s")
    add_transfers(torch.zeros(sizes.image_batch, sizes.img_px, sizes.img_px, 3, dtype=torch.uint8), device, figures)


def add_transfers(batch: torch.Tensor, device: torch.device, figures: Figures) -> None:
    """How fast a batch of images comes to the device, and how long it takes to pin it."""
    figures.add("a batch of images", batch.numel() / 1e6, "MB")
    ways = {"plain": batch} | ({"pinned": batch.pin_memory()} if device.type == "cuda" else {})
    for name, source in ways.items():
        seconds = seconds_of(partial(source.to, device, non_blocking=True), device)
        figures.add(f"to the device from {name} memory", batch.numel() / seconds / 1e9, "GB/s")
    if device.type == "cuda":
        figures.add("pinning that batch", 1e3 * seconds_of(batch.pin_memory, device), "ms")
