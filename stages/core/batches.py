"""Which images a network learns from and is watched on: moved ones of train, a function of the step, and plain ones."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core import distributed
from stages.core.augment import Affine, random_maps, warp
from stages.core.choice import evenly
from stages.core.loop import Optim, epoch_batch
from stages.core.pixels import to_float
from stages.core.rng import seed_of

if TYPE_CHECKING:
    import numpy as np

WATCHED = 256  # images of each split behind curves and scores


class Batches:
    """`splits` are {train, val} as stages.data.reader gives them; `word` names the seed of the moves."""

    def __init__(self, word: str, splits: dict[str, Any], augment: Affine, optim: Optim, device: torch.device):
        self.word, self.splits, self.augment, self.optim, self.device = word, splits, augment, optim, device

    def batch_at(self, step: int) -> Tensor:
        """float [B, 3, H, W] from -1 to 1: this process's share of the batch of `step`."""
        index = self.batch_index(step)
        rng = torch.Generator().manual_seed(seed_of(self.word, self.optim.seed, step))
        maps = random_maps(len(index), self.augment, rng)
        pixels = to_float(self.splits["train"].read(distributed.share_of(index)), self.device)
        return warp(pixels, distributed.share_of(maps))

    def batch_index(self, step: int) -> np.ndarray:
        """int64 [batch_size]: which train images step `step` sees in all processes together."""
        optim = self.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_keys(self, step: int) -> list[str]:
        """Their names."""
        return [self.splits["train"].keys[i] for i in self.batch_index(step)]

    @cached_property
    def watched(self) -> dict[str, np.ndarray]:
        """Of each split at most WATCHED images, evenly spread, uint8 [M, H, W, 3]."""
        return {name: split.read(evenly(len(split), WATCHED)) for name, split in self.splits.items()}
