"""The noise behind a decoded image: a function of one seed and of the image's own codes.

The same codes under the same seed are the same image, in a batch of any size and at any place in it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def seeds_of(codes_BN: Tensor, generator: torch.Generator | None) -> np.ndarray:
    """uint64 [B]: a hash of 63 bits drawn from `generator` (0 without one) and of each row of codes."""
    device = generator.device if generator else "cpu"
    drawn = int(torch.randint(2**63 - 1, (), generator=generator, device=device)) if generator else 0
    rows = codes_BN.cpu().numpy().astype("<i8")
    hashes = [hashlib.sha256(drawn.to_bytes(8, "little") + row.tobytes()).digest() for row in rows]
    return np.array([int.from_bytes(digest[:8], "little") for digest in hashes], np.uint64)


def normal(seeds_B: np.ndarray, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Standard normal float32 [B, *shape]; row i depends on seed i alone."""
    return _stack([_source(seed).standard_normal(shape, np.float32) for seed in seeds_B], shape, device)


def uniform(seeds_B: np.ndarray, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Uniform float32 in [0, 1) [B, *shape]; row i depends on seed i alone."""
    return _stack([_source(seed).random(shape, np.float32) for seed in seeds_B], shape, device)


def _source(seed: np.uint64) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int(seed)))


def _stack(rows: list[np.ndarray], shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.stack(rows) if rows else np.empty((0, *shape), np.float32)).to(device)
