"""The picture of a sweep: one row an image, first the original, then what came of it at every number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.choice import choose
from stages.core.pictures import GAP_PX, enlarge, grid, save_png

if TYPE_CHECKING:
    from stages.sweep.measure import Params


class Rows:
    """A seeded choice of the images uint8 [M, H, W, 3], the same for every decoder."""

    def __init__(self, images: np.ndarray, params: Params):
        self.chosen = choose(len(images), params.images_shown, params.seed)
        self.columns = {"original": images[self.chosen]}

    def add(self, name: str, decoded: np.ndarray) -> None:
        """A column more, from all images decoded."""
        self.columns[name] = decoded[self.chosen]

    def save(self, path: Path) -> None:
        """The picture as PNG."""
        by_row = np.stack([*self.columns.values()], 1)
        save_png(path, grid(by_row.reshape(-1, *by_row.shape[2:]), len(self.columns), self.scale))

    def facts(self) -> dict[str, Any]:
        """Where in the picture is what: `pitch_px` from the left edge of a column to that of the next."""
        side = self.columns["original"].shape[2] + GAP_PX
        return {"of": "steps.png", "columns": [*self.columns], "pitch_px": side * self.scale}

    @property
    def scale(self) -> int:
        return enlarge(self.columns["original"].shape[2])
