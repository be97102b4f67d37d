"""What makes a result independent of the number of processes: ranks, shares, named seeds, batches, seeded subsets.

Rank and world size come from torchrun's environment; a single process needs no launcher. Every process draws every
whole batch and computes its share, so `batch_size` is that of all processes together. A share may be computed in
several micro-batches, one after the other.
"""

import hashlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

AnyBatch = TypeVar("AnyBatch", bound=Any)  # an array or a tensor
_MICRO_BATCH = ContextVar("micro-batch", default=(0, 1))  # number of the current one, number of all of a share


def rank() -> int:
    """Number of this process among all, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def micro_batch(number: int, count: int) -> Generator[None]:
    """In the block, a share is micro-batch `number` of `count` equal ones of the rows of this process."""
    token = _MICRO_BATCH.set((number, count))
    try:
        yield
    finally:
        _MICRO_BATCH.reset(token)


def num_shares() -> int:
    """Into how many shares a batch is cut: processes times micro-batches."""
    return world_size() * _MICRO_BATCH.get()[1]


def share_number() -> int:
    """The number of the current share of this process among all of a batch."""
    number, count = _MICRO_BATCH.get()
    return rank() * count + number


def share_of(batch: AnyBatch) -> AnyBatch:
    """The current share's rows of an array or tensor [B, ...]: the first B / num_shares rows for share 0, and so on."""
    size = len(batch) // num_shares()
    return batch[share_number() * size : (share_number() + 1) * size]


def epoch_batch(step: int, *, count: int, batch_size: int, seed: int) -> np.ndarray:
    """int64 [batch_size]: which of `count` items `step` uses; every epoch is another seeded permutation.

    Batches run across the ends of epochs, so that all have the same size.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([epoch_order(int(p // count), count, seed)[p % count] for p in positions])


@lru_cache(maxsize=2)
def epoch_order(epoch: int, count: int, seed: int) -> np.ndarray:
    """int64 [count]: the seeded permutation of one epoch."""
    return np.random.default_rng(seed_of("epoch", seed, epoch)).permutation(count)


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
