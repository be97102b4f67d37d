"""What the processes of a torchrun tell each other while they cluster: sums, and what the first one found."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from stages.core.distributed import rank, world_size
from stages.core.hardware import waiting_group

Found = TypeVar("Found")


def add_up(*arrays: np.ndarray) -> None:
    """Replace each array in place by its sum over all processes."""
    if world_size() > 1:
        for array in arrays:
            dist.all_reduce(torch.from_numpy(array))


def from_first(find: Callable[[], Found]) -> Found:
    """What `find` returns in the first process; the others wait for it."""
    found: list[Any] = [find() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(found, group=waiting_group())
    return found[0]
