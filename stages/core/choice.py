"""Choices of some of many: seeded, or evenly spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def choose(count: int, at_most: int, seed: int) -> np.ndarray:
    """int64 [M], sorted: `at_most` of the numbers 0 … count - 1 without repetition, or all if there are no more."""
    import numpy as np

    if count <= at_most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, at_most, replace=False))


def evenly(count: int, limit: int) -> np.ndarray:
    """int64: at most `limit` of `count` numbers, evenly spread, because images often lie sorted by class."""
    import numpy as np

    return np.arange(min(count, limit)) * count // min(count, limit)
