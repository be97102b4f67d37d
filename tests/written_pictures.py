"""Pictures that stages leave below reports/, and the codebook map, of random pixels."""

import json
from pathlib import Path

import numpy as np

from stages.core.results import enlarge, grid, save_png

IMG_PX = 32


def picture(path: Path, shape: tuple[int, int, int] = (8, 8, 3)) -> None:
    """A picture unlike any other of the test."""
    seed = int.from_bytes(path.as_posix().encode()[-12:])
    save_png(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def image_grid(path: Path, rows: int, columns: int) -> np.ndarray:
    """A picture of images unlike any others, uint8 [rows, columns, IMG_PX, IMG_PX, 3], which are returned."""
    seed = int.from_bytes(path.as_posix().encode()[-12:])
    images = np.random.default_rng(seed).integers(0, 256, (rows, columns, IMG_PX, IMG_PX, 3), dtype=np.uint8)
    save_png(path, grid(images.reshape(-1, *images.shape[2:]), columns, enlarge(IMG_PX)))
    return images


def write_map(folder: Path) -> None:
    """Three codes from left to right, each with a mean patch and one use."""
    places = enumerate(((0.0, 0.5), (0.5, 0.5), (1.0, 0.25)))
    codes = [
        {"code": 7 - n, "x": x, "y": y, "share": 0.5 / 2**n, "class": "cat", "class_share": 0.75}
        for n, (x, y) in places
    ]
    picture(folder / "patches.png", (9, 6, 3))
    (folder / "codes.json").write_text(json.dumps({"tile_px": 3, "columns": 2, "codes": codes}))
