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
from stages.core.augment import Affine
from stages.core.batches import Batches
from stages.core.loop import Optim
from stages.core.pixels import to_float
from stages.data.reader import ImageSplit

if TYPE_CHECKING:
    from stages.core.params import Machine


@dataclass(frozen=True)
class Codes:
    """Images uint8 [B, H, W, 3], the codes they are rendered from, int64 [B, M], and pixel codes, int64 [B, N]."""

    images: np.ndarray
    given: Tensor
    pixel: Tensor


class Pairs:
    """Codes of `batches`, and of their plain images of train and val to watch."""

    def __init__(
        self, images: Path, tokenizer: Tokenizer, pixel_tokenizer: Tokenizer, augment: Affine, optim: Optim,
        machine: Machine, device: torch.device,
    ):  # fmt: skip
        splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        self.batches = Batches("pairs", splits, augment, optim, device)
        self.tokenizer, self.pixel_tokenizer = tokenizer, pixel_tokenizer
        self.device, self.infer_batch_size = device, machine.infer_batch_size

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both tokenizers' codes, [B, M] and [B, N], of float [B, 3, H, W] in [-1, 1]."""
        return self.tokenizer.encode_pixels(pixels), self.pixel_tokenizer.encode_pixels(pixels)

    @cached_property
    def watched(self) -> dict[str, Codes]:
        """Those of each split."""
        return {name: self.codes_of(images) for name, images in self.batches.watched.items()}

    def codes_of(self, images: np.ndarray) -> Codes:
        """Plain images with both of their codes."""
        parts = torch.from_numpy(images).split(self.infer_batch_size)
        given, pixel = zip(*(self.encode(to_float(part, self.device)) for part in parts), strict=True)
        return Codes(images, torch.cat(given), torch.cat(pixel))
