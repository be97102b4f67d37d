"""Bytes of an image file of any kind -> RGB as a viewer shows it -> its central square at `img_px`.

Color profiles are not applied, as in most image data sets. Of several frames or pages, the first one counts.
"""

import io
import os
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.data.source import Refused

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Not EPS or PDF, whatever a file's name: Pillow would start other programs for them.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
# Memory of one image: its file and its pixels. Measured bytes per pixel at the peak, which a conversion to RGB does not
# exceed: Pillow keeps 4, and again 4 for a turned or converted copy; a progressive JPEG of four colors needs 8 for its
# coefficients, the decoder of WebP 12. With 1 GB, all that Pillow takes (89 megapixels) is accepted except as WebP.
FILE_BYTES = 400_000_000  # an uncompressed RGB or RGBA image of Pillow's limit has 268 or 358 MB
DECODE_BYTES = 1_100_000_000
MOST_PIXEL_BYTES = 12
PIXEL_BYTES = {"WEBP": 18}
TILE_PX = 1024


@contextmanager
def pillow_warnings() -> Generator[None]:
    """Raise for decompression bombs, ignore warnings of metadata. Enter it in the main thread: filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file, if there are at most so many; else, or if it cannot be read, `Refused`."""
    try:
        with open(path, "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise Refused(f"{size:,} bytes, at most {most:,}: memory is bounded, store it smaller")
            return file.read(size)
    except OSError as error:
        raise Refused(f"unreadable: {error.strerror}") from error


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
    check_size(image)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def check_size(image: Image.Image) -> None:
    """Refuse an image that would need more than DECODE_BYTES; its header is read, its pixels are not."""
    pixels, each = image.width * image.height, PIXEL_BYTES.get(image.format or "", MOST_PIXEL_BYTES)
    if pixels * each > DECODE_BYTES:
        most = DECODE_BYTES // each
        raise Refused(f"{pixels:,} pixels, at most {most:,} for {image.format}: memory is bounded, store it smaller")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, without the metadata that Pillow would write into the new file."""
    if image.mode == "F":
        raise Refused("floating-point pixels: the value of white is unknown")
    if image.mode != "RGB" or image.has_transparency_data:
        image = in_tiles(image)
    image.info = {}
    return image


def in_tiles(image: Image.Image) -> Image.Image:
    """A new RGB image, converted tile by tile, so that copies in other modes stay small."""
    rgb = Image.new("RGB", image.size)
    for left, top in product(range(0, image.width, TILE_PX), range(0, image.height, TILE_PX)):
        box = (left, top, min(left + TILE_PX, image.width), min(top + TILE_PX, image.height))
        rgb.paste(tile_to_rgb(image.crop(box)), box)
    return rgb


def tile_to_rgb(image: Image.Image) -> Image.Image:
    """A part of an image as RGB, transparency over white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(to_8_bits(image))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


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
        return f"decompression bomb: {str(error).split(', could be')[0]}; store it smaller"
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
