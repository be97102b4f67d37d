"""Bytes of an image file of any kind -> RGB as a viewer shows it -> a square of `img_px`.

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
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

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
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
Size = tuple[int, int]  # width, height
Crop = Literal["center", "pad", "resize"]


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


def decode_rgb(content: bytes, background: str = "white", least_px: int | None = None) -> tuple[Image.Image, Size]:
    """An image file as RGB, upright by its EXIF orientation, transparency over a color; else `Refused`.

    With `least_px`, a JPEG may come at a half, a quarter or an eighth of its size as long as both sides keep so many
    pixels: its decoder computes that several times as fast. The size is that of the upright file.
    """
    if not content:
        raise Refused("empty file")
    try:
        image, size = open_upright(content, least_px)
        return to_rgb(image, background), size
    except (Refused, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on broken files
        raise Refused(explain(error)) from error


def open_upright(content: bytes, least_px: int | None = None) -> tuple[Image.Image, Size]:
    """The first frame with its own mode and all pixels read, turned as its EXIF orientation says; its size.

    `least_px` as in `decode_rgb`.
    """
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    check_size(image)
    whole, turned = image.size, image.getexif().get(Base.Orientation) in TURNED
    smaller = image.draft(None, (least_px, least_px)) if least_px else None  # only a JPEG may become smaller
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if not smaller:
        return image, image.size
    return image, whole[::-1] if turned else whole


def check_size(image: Image.Image) -> None:
    """Refuse an image that would need more than DECODE_BYTES; its header is read, its pixels are not."""
    pixels, each = image.width * image.height, PIXEL_BYTES.get(image.format or "", MOST_PIXEL_BYTES)
    if pixels * each > DECODE_BYTES:
        most = DECODE_BYTES // each
        raise Refused(f"{pixels:,} pixels, at most {most:,} for {image.format}: memory is bounded, store it smaller")


def to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Any Pillow mode to RGB, without the metadata that Pillow would write into the new file."""
    if image.mode == "F":
        raise Refused("floating-point pixels: the value of white is unknown")
    if image.mode != "RGB" or image.has_transparency_data:
        image = in_tiles(image, background)
    image.info = {}
    return image


def in_tiles(image: Image.Image, background: str) -> Image.Image:
    """A new RGB image, converted tile by tile, so that copies in other modes stay small."""
    rgb = Image.new("RGB", image.size)
    for left, top in product(range(0, image.width, TILE_PX), range(0, image.height, TILE_PX)):
        box = (left, top, min(left + TILE_PX, image.width), min(top + TILE_PX, image.height))
        rgb.paste(tile_to_rgb(image.crop(box), background), box)
    return rgb


def tile_to_rgb(image: Image.Image, background: str) -> Image.Image:
    """A part of an image as RGB, transparency over a color."""
    if image.mode.startswith("I"):
        image = Image.fromarray(to_8_bits(image))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
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


def shown_box(size: Size, img_px: int, crop: Crop) -> tuple[float, float, float, float]:
    """(left, top, right, bottom), in pixels of an image, of what its square shows; `pad` shows more than the image."""
    width, height = size
    if crop == "resize":
        return 0, 0, width, height
    if crop == "center":
        side = min(size)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side
    (inner_width, inner_height), (x, y) = place_within(size, img_px)
    across, down = width / inner_width, height / inner_height
    return -x * across, -y * down, (img_px - x) * across, (img_px - y) * down


def place_within(size: Size, img_px: int) -> tuple[Size, tuple[int, int]]:
    """Size and left upper corner, in whole pixels, of an image that is centered in its square as a whole."""
    width, height = (max(1, round(side * img_px / max(size))) for side in size)
    return (width, height), ((img_px - width) // 2, (img_px - height) // 2)


def to_square(image: Image.Image, img_px: int, crop: Crop, background: str | int, nearest: bool = False) -> Image.Image:
    """The image in a square of `img_px`, resized bicubically and antialiased, or to nearest pixels.

    center: the central square; pad: the whole image on `background`, a color of its mode; resize: the whole image,
    stretched. Crop and resize are one operation, so that a very wide image is never enlarged as a whole.
    """
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    if crop != "pad":
        return image.resize((img_px, img_px), method, box=shown_box(image.size, img_px, crop))
    size, corner = place_within(image.size, img_px)
    square = Image.new(image.mode, (img_px, img_px), background)
    if image.palette:
        square.putpalette(image.palette)
    square.paste(image.resize(size, method), corner)
    return square
