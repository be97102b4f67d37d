"""What a generator returns: codes and images, as a grid or as files."""

import os
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from stages.core import UserError
from stages.core.results import enlarge, grid
from stages.data.given import Count, checked


@dataclass(frozen=True)
class Sample:
    """Drawn codes and the images that they decode to, in the order in which they were asked for."""

    codes: np.ndarray  # int64 [B, N]
    images: np.ndarray  # uint8 [B, H, W, 3]

    @checked
    def grid(self, columns: Count | None = None) -> Image.Image:
        """All images row by row in one picture, small ones enlarged; by default about as many rows as columns."""
        if not len(self.images):
            raise UserError("grid: the sample is empty: expected at least one image")
        across = min(len(self.images), columns or ceil(sqrt(len(self.images))))
        return Image.fromarray(grid(self.images, across, enlarge(self.images.shape[1])))

    @checked
    def save(self, path: str | Path, columns: Count | None = None) -> None:
        """Write `grid(columns)` to an image file such as grid.png, or, to a path without an ending, a folder.

        The folder has one PNG per image, 000000.png and so on, of their true size. It may exist; files of the same
        names are replaced. A file appears whole or not at all. The folder around it must exist.
        """
        path = Path(path)
        if not path.absolute().parent.is_dir():
            raise UserError(f"save: {path}: expected a path in a folder that exists")
        if not path.suffix:
            path.mkdir(exist_ok=True)
            for number, image in enumerate(self.images):
                write(path / f"{number:06d}.png", Image.fromarray(image))
            return
        known = Image.registered_extensions()
        if known.get(path.suffix.lower()) not in Image.SAVE:
            raise UserError(f"save: {path}: expected the ending .png, .webp or .jpg, or none: a folder")
        write(path, self.grid(columns))


def write(path: Path, image: Image.Image) -> None:
    """Write an image file under a hidden name and rename it."""
    aside = path.with_name(f".partial-{path.name}")
    try:
        image.save(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
