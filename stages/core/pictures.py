"""Grids of pictures as PNG files (the same pictures give the same bytes), and thumbnails for comparisons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import events
from stages.core.artefact import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

GAP_PX = 1
PAPER = 255


def grid(images: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """uint8 [M, h, w, 3] -> uint8 [height, width, 3]: rows of `columns` pictures, each pixel `scale` px wide and high.

    White lines of one (unscaled) pixel separate the pictures; an incomplete last row ends in white.
    """
    import numpy as np

    rows, (height, width) = -(-len(images) // columns), images.shape[1:3]
    canvas = np.full((rows, height + GAP_PX, columns, width + GAP_PX, 3), PAPER, np.uint8)
    for place, image in enumerate(images):
        canvas[place // columns, :height, place % columns, :width] = image
    flat = canvas.reshape(rows * (height + GAP_PX), columns * (width + GAP_PX), 3)[:-GAP_PX, :-GAP_PX]
    return flat.repeat(scale, 0).repeat(scale, 1)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [height, width, 3] as PNG without a timestamp; the folder is made."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    publish(path, content.getvalue())


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure of matplotlib as PNG; the same figure gives the same bytes; the folder is made."""
    publish(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """A figure of matplotlib as PNG, without the version that drew it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def publish(path: Path, png: bytes) -> None:
    """Write the bytes in one go, and show them to whoever watches the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png)
    events.picture(path.stem, png)


def enlarge(img_px: int) -> int:
    """The `scale` at which pictures of `img_px` are at least 64 px wide."""
    return max(1, 64 // img_px)


def thumbnails(pixels: Tensor, px: int) -> Tensor:
    """float [B, 3, H, W] -> float [B, 3 * px * px]: area averages; smaller images keep their size."""
    from torch.nn import functional as F

    return F.adaptive_avg_pool2d(pixels, min(px, pixels.shape[-1])).flatten(1)
