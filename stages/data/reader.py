"""Read image shards: any images of a split by number, decoded in threads."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.core import artifact
from stages.data.tar_index import TarIndex


def image_facts(folder: Path) -> dict[str, Any]:
    """The config.json of an images artifact: img_px, classes, splits, what was refused."""
    return artifact.read_config(folder, "images")


def num_images(folder: Path, split: str) -> int:
    """How many images `split` has."""
    return image_facts(folder)["splits"][split]["images"]


class ImageSplit:
    """The images of one split, in the order of the index.

    `keys[i]` is the shard key and `labels[i]` (int64, -1 without a class) the class number of image i.
    """

    def __init__(self, folder: Path, split: str, num_workers: int = 0):
        facts = image_facts(folder)
        self.img_px: int = facts["img_px"]
        self.classes: list[str] = facts["classes"]
        self.labels: np.ndarray = np.load(artifact.checked(folder, f"{split}.labels.npy"))
        self._index, self._field = TarIndex(folder, facts, split), facts["format"]
        self._pool, self._owner = ThreadPoolExecutor(num_workers) if num_workers else None, os.getpid()

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def keys(self) -> list[str]:
        """Made when first asked for: 65 bytes an image."""
        return self._index.keys()

    def keys_of(self, indices: np.ndarray | Sequence[int]) -> list[str]:
        """The keys of the numbered images alone."""
        return self._index.keys(indices)

    def read(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """uint8 [B, img_px, img_px, 3] of the numbered images, in that order; a broken shard is a `UserError`."""
        images = np.empty((len(indices), self.img_px, self.img_px, 3), np.uint8)
        decode = self._pool.map if self._pool and os.getpid() == self._owner else map  # a forked process has no threads
        for row, image in enumerate(decode(self._decode, indices)):
            images[row] = image
        return images

    def _decode(self, index: int) -> np.ndarray:
        content = self._index.read(index, self._field)
        try:
            return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise self._index.unreadable(index) from error
