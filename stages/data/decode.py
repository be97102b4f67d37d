"""Bytes of an image file of any kind -> RGB as a viewer shows it -> its central square at `img_px`.

Color profiles are not applied, as in most image data sets. Of several frames or pages, the first one counts.
"""

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.data.source import Refused

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Not EPS or PDF, whatever a file's name: Pillow would start other programs for them.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


@contextmanager
def pillow_warnings() -> Generator[None]:
    """Raise for decompression bombs, ignore warnings of metadata. Enter it in the main thread: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_rgb(content: bytes) -> Image.Image:
    """An image file as RGB: upright by its EXIF orientation, transparency over white; else `Refused`."""
    if not content:
        raise Refused("empty file")
    try:
        return to_rgb(open_upright(content))
    except (Refused, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on broken files
        raise Refused(explain(error)) from error


def open_upright(content: bytes) -> Image.Image:
    """The first frame with its own mode and all pixels read, turned as its EXIF orientation says."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, without the metadata that Pillow would write into the new file."""
    if image.mode.startswith("I"):
        image = Image.fromarray(to_8_bits(image))
    if image.mode == "F":
        raise Refused("floating-point pixels: the value of white is unknown")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    image.info = {}
    return image


def to_8_bits(image: Image.Image) -> np.ndarray:
    """16-bit gray (mode I;16*, or I with such values) -> uint8 [H, W]; Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Refused("32-bit integer pixels: the value of white is unknown")
    return ((values + 128) // 257).astype(np.uint8)


def explain(error: Exception) -> str:
    """The reason as text, without memory addresses, so that it is equal in every run."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image file ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"decompression bomb: {str(error).split(', could be')[0]}"
    return f"broken image: {re.sub(r' at 0x[0-9a-f]+', '', str(error)) or type(error).__name__}"


def central_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels of the largest centered square of an image of (width, height)."""
    width, height = size
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def to_square(image: Image.Image, img_px: int, nearest: bool = False) -> Image.Image:
    """The central square, resized (bicubic, antialiased; or nearest) to `img_px`.

    Crop and resize are one operation, so that a very wide image is never enlarged as a whole. The result equals that of
    resizing the shorter side and cropping.
    """
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return image.resize((img_px, img_px), method, box=central_square(image.size))
