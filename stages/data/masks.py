"""The masks of an images artefact, by the key of their image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import shards
from stages.data.reader import image_facts, read_range

if TYPE_CHECKING:
    import numpy as np


class Masks:
    """The masks of one split. `key in masks` says whether an image has one."""

    def __init__(self, folder: Path, split: str):
        facts = image_facts(folder)
        self.img_px: int = facts["img_px"]
        paths = [folder / entry["name"] for entry in facts["splits"][split]["shards"]]
        self._places = {
            key: (path, offset, size) for path in paths for key, offset, size in shards.members(path, "mask.png")
        }

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """bool [B, img_px, img_px]: where a mask is not 0 (in any colour; opacity does not count)."""
        import numpy as np

        covered = np.empty((len(keys), self.img_px, self.img_px), bool)
        for row, key in enumerate(keys):
            covered[row] = not_zero(read_range(*self._places[key]))
        return covered


def not_zero(png: bytes) -> np.ndarray:
    """bool [H, W] of a mask as stages/data/sidecars.py wrote it: grey, palette or colour."""
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    colours = [place for place, band in enumerate(image.getbands()) if band != "A"]
    values: np.ndarray = np.atleast_3d(np.asarray(image))
    return values[..., colours].max(-1) != 0
