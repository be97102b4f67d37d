"""Process rank and count, from torchrun's environment alone; a single process needs no launcher and no torch."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

from stages.core.errors import UserError


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
    """Join the other processes (gloo: works with and without GPUs); nothing to do for one process."""
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    # The others wait while the first process publishes what all have made, which may take long.
    dist.init_process_group("gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come this far."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def refuse_several(stage: str) -> None:
    """Raise under torchrun, for a stage that works in one process: several would overwrite each other's files."""
    if world_size() > 1:
        raise UserError(f"{stage}: works in one process, WORLD_SIZE is {world_size()}: start it without torchrun")
