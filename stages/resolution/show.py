"""The picture: one row an image; at each scale the original, then what each decoder made of it, all of one width."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.core.pictures import enlarge, grid, save_png


def show(path: Path, columns: list[np.ndarray]) -> None:
    """Write the PNG of columns uint8 [M, H, W, 3], H = W differing; a pixel of a smaller image becomes several."""
    side = max(images.shape[1] for images in columns)
    by_row = np.stack([blown_up(images, side) for images in columns], 1)
    save_png(path, grid(by_row.reshape(-1, side, side, 3), len(columns), enlarge(side)))


def blown_up(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [M, h, h, 3] -> uint8 [M, side, side, 3], each place the nearest pixel above and to the left."""
    index = np.arange(side) * images.shape[1] // side
    return images[:, index][:, :, index]
