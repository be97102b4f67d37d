"""What a renderer learns from: the codes of one tokenizer beside those of another, of the same moved images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.codebook.model import Tokenizer
from stages.core import distributed
from stages.core.augment import Affine, random_maps, warp
from stages.core.loop import Optim, epoch_batch, evenly
from stages.core.pixels import to_float
from stages.core.rng import seed_of
from stages.data.reader import ImageSplit

if TYPE_CHECKING:
    from stages.core.params import Machine

WATCHED = 512  # images of each split behind curves and scores


@dataclass(frozen=True)
class Codes:
    """Images uint8 [B, H, W, 3], the codes they are rendered from, int64 [B, M], and pixel codes, int64 [B, N]."""

    images: np.ndarray
    given: Tensor
    pixel: Tensor


class Pairs:
    """Batches that are functions of their step, and plain images of train and val to watch."""

    def __init__(
        self, images: Path, tokenizer: Tokenizer, pixel_tokenizer: Tokenizer, augment: Affine, optim: Optim,
        machine: Machine, device: torch.device,
    ):  # fmt: skip
        self.splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        self.tokenizer, self.pixel_tokenizer, self.augment, self.optim = tokenizer, pixel_tokenizer, augment, optim
        self.device, self.infer_batch_size = device, machine.infer_batch_size

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Given codes [B, M] and pixel codes [B, N] of this process's share of a batch."""
        index = self.batch_index(step)
        rng = torch.Generator().manual_seed(seed_of("pairs", self.optim.seed, step))
        maps = random_maps(len(index), self.augment, rng)
        pixels = to_float(self.splits["train"].read(distributed.share_of(index)), self.device)
        return self.encode(warp(pixels, distributed.share_of(maps)))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both tokenizers' codes of float [B, 3, H, W] in [-1, 1]."""
        return self.tokenizer.encode_pixels(pixels), self.pixel_tokenizer.encode_pixels(pixels)

    def batch_index(self, step: int) -> np.ndarray:
        """int64 [batch_size]: which train images step `step` sees in all processes together."""
        optim = self.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_keys(self, step: int) -> list[str]:
        """Their names."""
        return [self.splits["train"].keys[i] for i in self.batch_index(step)]

    @cached_property
    def watched(self) -> dict[str, Codes]:
        """Of each split at most WATCHED images, evenly spread, as they are."""
        return {name: self.codes_of(split.read(evenly(len(split), WATCHED))) for name, split in self.splits.items()}

    def codes_of(self, images: np.ndarray) -> Codes:
        """Plain images with both of their codes."""
        parts = torch.from_numpy(images).split(self.infer_batch_size)
        given, pixel = zip(*(self.encode(to_float(part, self.device)) for part in parts), strict=True)
        return Codes(images, torch.cat(given), torch.cat(pixel))
