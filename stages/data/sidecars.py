"""Sidecars, the files beside an image: `<image>.txt` (captions), `<image>.boxes.json`, `<image>.mask.png`.

Boxes are [[x0, y0, x1, y1], ...], in pixels of the upright original; a mask has the original's size. Both become shard
members of the same name, in pixels of the square image. Boxes outside the square are dropped, others are clipped.
Each line of a .txt is a caption (stages/data/captions.py); a file without any counts as no file.
"""

import io
import json
import math
from collections.abc import Callable

import numpy as np

from stages.data.captions import decode, lines_of, to_member
from stages.data.decode import FILE_BYTES, Crop, Size, explain, open_upright, shown_box, to_square
from stages.data.source import Refused

CAPTION = ".txt"
ENDINGS = (CAPTION, ".boxes.json", ".mask.png")
Sidecars = dict[str, tuple[str, Callable[[int], bytes]]]  # ending -> name, and what reads at most so many bytes
NOUNS = {".txt": "captions", ".boxes.json": "boxes", ".mask.png": "masks"}
MOST_BYTES = {".txt": 2**20, ".boxes.json": 2**22, ".mask.png": FILE_BYTES}


def owner(name: str) -> str | None:
    """The extensionless name of the image that a file of this name would describe."""
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), None)


def count_sidecars(index: np.ndarray) -> dict[str, int]:
    """How many images of a split have each kind, by its index (stages/data/shards.py)."""
    fields = index.dtype.names or ()
    return {NOUNS[end]: int((index[end[1:]][:, 0] > 0).sum()) if end[1:] in fields else 0 for end in ENDINGS}


def read_sidecars(sidecars: Sidecars, size: Size, img_px: int, crop: Crop) -> dict[str, bytes]:
    """{member: bytes} of an image of `size`; one that is wrong is a `Refused` that names it."""
    convert = {
        CAPTION: lambda content: to_member(lines_of(decode(content))),
        ".boxes.json": lambda content: convert_boxes(content, size, img_px, crop),
        ".mask.png": lambda content: convert_mask(content, size, img_px, crop),
    }
    members = {}
    for ending, (name, read) in sidecars.items():
        try:
            if made := convert[ending](read(MOST_BYTES[ending])):
                members[ending[1:]] = made
        except (Refused, ValueError, RecursionError, OSError) as error:
            raise Refused(f"its sidecar {name}: {error}") from error
    return members


def convert_boxes(content: bytes, size: Size, img_px: int, crop: Crop) -> bytes:
    """Boxes of the original -> boxes of the square image, in pixels to three decimals."""
    boxes = json.loads(content, parse_int=float)
    if not isinstance(boxes, list) or not all(map(is_box, boxes)):
        raise Refused("expected [[x0, y0, x1, y1], ...] with x0 < x1 and y0 < y1")
    left, top, right, bottom = shown_box(size, img_px, crop)
    across, down = img_px / (right - left), img_px / (bottom - top)
    inside = []
    for box in boxes:
        x0, y0, x1, y1 = (
            round(min(max((value - start) * scale, 0), img_px), 3)
            for value, start, scale in zip(box, (left, top) * 2, (across, down) * 2, strict=True)
        )
        if x0 < x1 and y0 < y1:
            inside.append([x0, y0, x1, y1])
    return json.dumps(inside).encode()


def is_box(box: object) -> bool:
    """True for four finite numbers that span an area."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(isinstance(value, float) and math.isfinite(value) for value in box):
        return False
    return box[0] < box[2] and box[1] < box[3]


def convert_mask(content: bytes, size: Size, img_px: int, crop: Crop) -> bytes:
    """A mask of the original -> PNG of the square; values (or palette indices) stay as they are, padding is 0."""
    try:
        mask, own = open_upright(content)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # as in decode_rgb
        raise Refused(explain(error)) from error
    if own != size:
        raise Refused(f"{own[0]}x{own[1]} pixels, its image has {size[0]}x{size[1]}")
    mask.info = {}
    file = io.BytesIO()
    to_square(mask, img_px, crop, 0, nearest=True).save(file, "png")
    return file.getvalue()
