"""What makes a result independent of the number of processes: ranks, shares, named seeds, seeded subsets.

Rank and world size come from torchrun's environment; a single process needs no launcher. Every process draws every
whole batch and computes its share, so `batch_size` is that of all processes together.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

AnyBatch = TypeVar("AnyBatch", bound=Any)  # an array or a tensor


def rank() -> int:
    """Number of this process among all, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_of(batch: AnyBatch) -> AnyBatch:
    """This process's rows of an array or tensor [B, ...]: the first B / world_size rows for rank 0, and so on."""
    size = len(batch) // world_size()
    return batch[rank() * size : (rank() + 1) * size]


def seed_of(*names: str | int) -> int:
    """63 bits from the names, such as ("decoder", 0, "batch", 17); equal on every machine and Python.

    A seed per (purpose, step) lets a resumed training continue without the state of a generator.
    """
    text = "/".join(map(str, names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def random_subset(count: int, at_most: int, seed: int) -> np.ndarray:
    """int64 [M], sorted: `at_most` of the numbers 0 … count - 1 without repetition, or all if there are no more."""
    if count <= at_most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, at_most, replace=False))


def share_out(total: int, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [C], of sum `total`, in proportion to `counts`: largest remainders, of equal ones the first."""
    given = np.asarray(counts, np.int64)
    shares, rest = np.divmod(total * given, given.sum())
    shares[np.argsort(-rest, kind="stable")[: total - shares.sum()]] += 1
    return shares


def linspace_indices(count: int, limit: int) -> np.ndarray:
    """int64 [M]: at most `limit` of `count` indices, evenly spaced, because images are often sorted by class."""
    return np.arange(min(count, limit)) * count // min(count, limit)
