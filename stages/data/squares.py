"""Images as users give them -> the squares that a tokenizer takes: uint8 [B, img_px, img_px, 3].

An image is an array [H, W, 3] of NumPy or torch, a Pillow image, or the path of an image file. Arrays are uint8, or
floats of a stated range. Files and Pillow images become RGB as in the stage data: upright, transparency over the
background. Images of another size are cropped and resized as the data stage does it, by the settings of the images
that the tokenizer was trained on, which its artifact records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from torch import Tensor

from stages.core import UserError
from stages.data.decode import (
    FILE_BYTES,
    FORMATS,
    TURNED,
    Crop,
    Size,
    check_size,
    decode_rgb,
    explain,
    pillow_warnings,
    read_file,
    to_rgb,
    to_square,
)
from stages.data.given import one_line
from stages.data.source import Refused

PLAIN = {"crop": "center", "background": "#ffffff"}  # of sources that draw squares: digits, scenes
EXPECTED = "expected an array [H, W, 3], a PIL image, the path of an image file, or a list of these"


@dataclass(frozen=True)
class Square:
    """How an image becomes a square: side in pixels, `data.crop` and `data.background` of the training images."""

    img_px: int
    crop: Crop
    background: str


def recorded(images: dict[str, Any]) -> dict[str, Any]:
    """What a tokenizer's config.json takes from that of the images artifact: the arguments of `Square`."""
    return {"img_px": images["img_px"], **{key: images.get(key, plain) for key, plain in PLAIN.items()}}


def batches(
    images: Any, square: Square, batch_size: int, value_range: tuple[float, float] | None = None
) -> Iterator[np.ndarray]:
    """The squares of the images, uint8 [up to batch_size, img_px, img_px, 3]: files are opened batch by batch."""
    given = listed(images, value_range)
    for start in range(0, len(given), batch_size):
        yield squares(given[start : start + batch_size], square, value_range)


def squares(images: Any, square: Square, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """One image or several -> uint8 [B, img_px, img_px, 3]; `UserError` names an image that cannot be used.

    Call it in the main thread, as it filters Pillow's warnings; other threads use `square_of`.
    """
    given, side = listed(images, value_range), square.img_px
    if isinstance(given, np.ndarray) and given.shape[1:3] == (side, side):
        return in_8_bits(given, value_range)
    with pillow_warnings():
        found = [square_of(image, square, value_range) for image in given]
    return np.stack(found) if found else np.empty((0, side, side, 3), np.uint8)


def square_of(image: Any, square: Square, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """One image -> uint8 [img_px, img_px, 3]."""
    opened = opened_image(image, square.background, value_range, square.img_px)
    return np.asarray(to_square(opened, square.img_px, square.crop, square.background))


def whole(images: Any, background: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """One image or several of one size -> uint8 [B, H, W, 3], neither cropped nor resized."""
    with pillow_warnings():
        found = [np.asarray(opened_image(one, background, value_range)) for one in listed(images, value_range)]
    if len({image.shape for image in found}) != 1:
        raise UserError(f"images: of sizes {sizes_of(images)}: expected at least one, all of one size")
    return np.stack(found)


def listed(images: Any, value_range: tuple[float, float] | None = None) -> np.ndarray | Sequence[Any]:
    """The images as an array [B, H, W, 3] or a list of single ones, of which only arrays are checked yet."""
    if isinstance(images, np.ndarray | Tensor):
        array = checked_array(images, "images", value_range)
        return array if array.ndim == 4 else array[None]
    if isinstance(images, list | tuple):
        return images
    if isinstance(images, str | Path | Image.Image):
        return [images]
    raise UserError(f"images: {one_line(images)} ({type(images).__name__}): {EXPECTED}")


def checked_array(images: Any, name: str, value_range: tuple[float, float] | None) -> np.ndarray:
    """uint8 or float [.., H, W, 3] as NumPy; `UserError` for other shapes and types, and for floats without range."""
    if isinstance(images, Tensor):  # NumPy has no bfloat16
        images = images.detach().cpu().float() if images.is_floating_point() else images.detach().cpu()
    array = np.asarray(images)
    said = f"{name}: {array.dtype} {list(array.shape)}"
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape[-3:-1]:
        raise UserError(f"{said}: expected [H, W, 3] or [B, H, W, 3]: red, green, blue last")
    if array.dtype.kind == "f" and value_range is None:
        raise UserError(f"{said}: expected uint8, or the range of floats, such as value_range=(0, 1)")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError(f"{said}: expected uint8, or floats with value_range=(low, high)")
    if array.dtype == np.uint8 and value_range is not None:
        raise UserError(f"{said}: value_range = {value_range} is for floats: expected none")
    return array


def in_8_bits(array: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """uint8 as it is; floats from low to high rounded to 0 … 255; `UserError` for NaN and others."""
    if value_range is None:
        return array
    low, high = value_range
    levels = (array.astype(np.float64) - low) * (255 / (high - low))
    if np.any(wrong := ~((levels >= -0.5) & (levels <= 255.5))):
        raise UserError(f"images: {array[wrong][0]}: expected values from {low:g} to {high:g}, as value_range says")
    return levels.round().clip(0, 255).astype(np.uint8)


def opened_image(
    image: Any, background: str, value_range: tuple[float, float] | None, least_px: int | None = None
) -> Image.Image:
    """One image as RGB; `least_px` as in `decode_rgb`. `UserError` names the file and what is wrong with it."""
    if isinstance(image, np.ndarray | Tensor):
        array = checked_array(image, "image", value_range)
        if array.ndim != 3:
            raise UserError(f"image: {array.dtype} {list(array.shape)}: expected [H, W, 3] in a list of images")
        return Image.fromarray(in_8_bits(array, value_range))
    try:
        if isinstance(image, str | Path):
            return decode_rgb(read_file(Path(image), FILE_BYTES), background, least_px)[0]
        if isinstance(image, Image.Image):
            return upright_rgb(image, background)
    except Refused as error:
        name = image if isinstance(image, str | Path) else one_line(image)
        raise UserError(f"{name}: {error}: expected an image file") from None
    raise UserError(f"image: {one_line(image)} ({type(image).__name__}): {EXPECTED}")


def upright_rgb(image: Image.Image, background: str) -> Image.Image:
    """A copy of a Pillow image as RGB, turned as its EXIF orientation says, transparency over the background."""
    check_size(image)
    try:
        return to_rgb(ImageOps.exif_transpose(image), background)
    except (OSError, SyntaxError, ValueError) as error:  # of a file that Pillow reads only now
        raise Refused(explain(error)) from error


def sizes_of(images: Any, value_range: tuple[float, float] | None = None) -> list[Size]:
    """(width, height) of each image as a viewer shows it; of files only the headers are read."""
    return [size_of(image) for image in listed(images, value_range)]


def size_of(image: Any) -> Size:
    """(width, height) of one image that `opened_image` can open."""
    if isinstance(image, np.ndarray | Tensor):
        return image.shape[1], image.shape[0]
    if not isinstance(image, Image.Image):
        with Image.open(image, formats=FORMATS) as opened:
            return size_of(opened)
    turned = image.getexif().get(Base.Orientation) in TURNED
    return image.size[::-1] if turned else image.size
