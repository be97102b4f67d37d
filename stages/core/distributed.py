"""Process rank and count, from torchrun's environment alone; a single process needs no launcher and no torch.

Training is data-parallel: every process holds the whole model and draws every whole batch, computes its share of it,
and takes the same step, because gradients are averaged. `batch_size` is that of all processes together.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AnyBatch = TypeVar("AnyBatch", "np.ndarray", "Tensor")


def rank() -> int:
    """This process's number among all, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Generator[None]:
    """Join the other processes; nothing to do for one process."""
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    # The others wait while the first process publishes what all have made, which may take long.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come this far."""
    if world_size() > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.zeros(1))  # of the CPU: a barrier of nccl's would guess at a GPU


def share_of(batch: AnyBatch) -> AnyBatch:
    """This process's rows of an array or tensor [B, ...]: the first B / world_size for rank 0, and so on."""
    size = len(batch) // world_size()
    return batch[rank() * size : (rank() + 1) * size]


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over all processes, in one exchange; nothing to do for one process."""
    if world_size() == 1 or not tensors:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
