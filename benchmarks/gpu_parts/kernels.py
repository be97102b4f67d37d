"""What torch's profiler says of the device: which kernels ran, and for how long."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.throughput import wait

Kernels = dict[str, tuple[float, int]]  # name -> seconds, number of calls


def new_profiler(device: torch.device) -> profile:
    """One that records the device's kernels, or operations on a CPU."""
    return profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda"))


def kernels_of(profiled: profile, device: torch.device) -> Kernels:
    """The kernels, the longest first."""
    kind, own = (
        (DeviceType.CUDA, "self_device_time_total")
        if device.type == "cuda"
        else (DeviceType.CPU, "self_cpu_time_total")
    )
    events = [event for event in profiled.key_averages() if event.device_type == kind and not event.is_user_annotation]
    found = {event.key: (getattr(event, own) / 1e6, event.count) for event in events}
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def kernel_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds in which kernels run during `work`."""
    with new_profiler(device) as profiled:
        work()
        wait(device)
    return sum(seconds for seconds, _ in kernels_of(profiled, device).values())
