"""The masks of an images artifact, by the key of their image."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stages.data.reader import image_facts
from stages.data.tar_index import TarIndex

FIELD = "mask.png"


class Masks:
    """The masks of one split. `key in masks` is true if the image with this key has one."""

    def __init__(self, folder: Path, split: str):
        facts = image_facts(folder)
        self.img_px: int = facts["img_px"]
        self._index = TarIndex(folder, facts, split)
        numbers = self._index.having(FIELD)
        self._numbers = dict(zip(self._index.keys(numbers), numbers.tolist(), strict=True))

    def __contains__(self, key: str) -> bool:
        return key in self._numbers

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """bool [B, img_px, img_px]: where a mask is not 0 (in any color; opacity does not count)."""
        covered = np.empty((len(keys), self.img_px, self.img_px), bool)
        for row, key in enumerate(keys):
            covered[row] = not_zero(self._index.read(self._numbers[key], FIELD))
        return covered


def not_zero(png: bytes) -> np.ndarray:
    """bool [H, W] of a mask as stages/data/sidecars.py wrote it: gray, palette or color."""
    image = Image.open(io.BytesIO(png))
    colors = [channel for channel, band in enumerate(image.getbands()) if band != "A"]
    values: np.ndarray = np.atleast_3d(np.asarray(image))
    return values[..., colors].max(-1) != 0
