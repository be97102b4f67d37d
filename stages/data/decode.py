"""Bytes of an image file of any kind -> RGB as a viewer shows it -> its central square at `img_px`.

Colour profiles are not applied, as in most image data sets. Of several frames or pages, the first one counts.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stages.data.candidates import Refused

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# No EPS or PDF under a false name: Pillow would start other programs for them.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


@contextmanager
def pillow_warnings() -> Generator[None]:
    """Decompression bombs raise, oddities in metadata pass. Enter it in the main thread: filters are global."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_rgb(content: bytes) -> Image:
    """An image file as RGB: upright by its EXIF orientation, transparency over white; else `Refused`."""
    if not content:
        raise Refused("empty file")
    try:
        return to_rgb(open_upright(content))
    except (Refused, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on broken files
        raise Refused(explain(error)) from error


def open_upright(content: bytes) -> Image:
    """The first frame with its own mode and all pixels read, turned as its EXIF orientation says."""
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image) -> Image:
    """Any Pillow mode to RGB, without the metadata that Pillow would write into the new file."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray(to_8_bits(image))
    if image.mode == "F":
        raise Refused("floating-point pixels: the value of white is unknown")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    image.info = {}
    return image


def to_8_bits(image: Image) -> np.ndarray:
    """16-bit grey (mode I;16*, or I with such values) -> uint8 [H, W]; Pillow's own conversion clips at 255."""
    import numpy as np

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Refused("32-bit integer pixels: the value of white is unknown")
    return ((values + 128) // 257).astype(np.uint8)


def explain(error: Exception) -> str:
    """The reason in words, equal in every run."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"not an image file ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"decompression bomb: {str(error).split(', could be')[0]}"
    return f"broken image: {re.sub(r' at 0x[0-9a-f]+', '', str(error)) or type(error).__name__}"


def central_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels of the largest centred square of an image of (width, height)."""
    width, height = size
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def to_square(image: Image, img_px: int, nearest: bool = False) -> Image:
    """The central square, resized (bicubic, antialiased; or nearest) to `img_px`.

    One step, so that a banner is never enlarged as a whole. It equals resizing the shorter side and cropping.
    """
    from PIL.Image import Resampling

    method = Resampling.NEAREST if nearest else Resampling.BICUBIC
    return image.resize((img_px, img_px), method, box=central_square(image.size))
