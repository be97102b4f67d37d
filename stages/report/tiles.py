"""Single images cut out of the stages' picture grids, small enough for the page."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.core.results import GAP_PX, enlarge
from stages.report.gather import Reports
from stages.report.plots import data_address

MAX_PX = 128  # side of an image on the page
LOSSLESS_PX = 64  # images up to this side stay exact


@dataclass(frozen=True)
class Tile:
    """An image as a data: address, with the class or caption that it shows; empty where none was asked for."""

    source: str
    label: str


def img_px_of(reports: Reports) -> int:
    """Side of the images of the run; 0 where DVC's record does not say."""
    return reports.params.get("data", {}).get("img_px", 0)


def cut(path: Path, img_px: int) -> np.ndarray | None:
    """A picture that `core.results.grid` made of square images as uint8 [rows, columns, img_px, img_px, 3].

    None if there is no such file, or if it is no grid of images of that side.
    """
    if not img_px or not path.is_file():
        return None
    scale = enlarge(img_px)
    pitch = (img_px + GAP_PX) * scale
    with Image.open(path) as file:
        picture = np.asarray(file.convert("RGB"))
    rows, columns = ((side + GAP_PX * scale) / pitch for side in picture.shape[:2])
    if rows != int(rows) or columns != int(columns):
        return None
    whole = np.pad(picture, ((0, GAP_PX * scale), (0, GAP_PX * scale), (0, 0)))
    cells = whole.reshape(int(rows), pitch, int(columns), pitch, 3).transpose(0, 2, 1, 3, 4)
    return cells[:, :, : img_px * scale : scale, : img_px * scale : scale]


def address(image: np.ndarray) -> str:
    """uint8 [height, width, 3] as a data: address: exact as PNG if small, else reduced and as WebP."""
    content, picture = io.BytesIO(), Image.fromarray(image)
    if min(image.shape[:2]) <= LOSSLESS_PX:
        picture.save(content, format="PNG")
        return data_address(content.getvalue())
    picture.save(content, format="WEBP", quality=85)
    return data_address(content.getvalue(), "webp")


def reduced(images: np.ndarray) -> np.ndarray:
    """uint8 [..., s, s, 3], each image of at most MAX_PX."""
    side = images.shape[-2]
    if side <= MAX_PX:
        return images
    flat = images.reshape(-1, side, side, 3)
    small = [Image.fromarray(one).resize((MAX_PX, MAX_PX), Image.Resampling.BOX) for one in flat]
    return np.stack([np.asarray(one) for one in small]).reshape(*images.shape[:-3], MAX_PX, MAX_PX, 3)


def strip(images: np.ndarray) -> str:
    """uint8 [count, s, s, 3] side by side as an address."""
    return address(np.concatenate([*reduced(images)], 1))


def column(images: np.ndarray) -> str:
    """uint8 [count, s, s, 3] below each other as an address."""
    return address(np.concatenate([*reduced(images)], 0))


def facts_of(path: Path) -> dict[str, Any]:
    """What the generation stage says about a generator's pictures; {} where it said nothing."""
    return json.loads(path.read_text()) if path.is_file() else {}
