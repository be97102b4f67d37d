"""Read image shards: any images of a split by number, decoded in threads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact, shards
from stages.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

KIND = "images"


def image_facts(folder: Path) -> dict[str, Any]:
    """The index of an images artefact: img_px, classes, splits, what was refused."""
    return artefact.read_config(folder, KIND)


def num_images(folder: Path, split: str) -> int:
    """How many images the index lists for `split`."""
    return image_facts(folder)["splits"][split]["images"]


class ImageSplit:
    """The images of one split, in the order of the index.

    `keys[i]` is the shard key and `labels[i]` (int64, -1 without a class) the class number of image i. Reading is
    thread-safe and keeps no file open: a data set may have more shards than a process may have files.
    """

    def __init__(self, folder: Path, split: str, num_workers: int = 0):
        import numpy as np

        facts = image_facts(folder)
        self.img_px: int = facts["img_px"]
        self.classes: list[str] = facts["classes"]
        self.labels: np.ndarray = np.load(artefact.checked(folder, f"{split}.labels.npy"))
        self._places: np.ndarray = np.load(artefact.checked(folder, f"{split}.places.npy"))
        self.keys = [f"{key:08d}" for key in self._places[:, 0].tolist()]
        self._paths = [check_shard(folder, entry) for entry in facts["splits"][split]["shards"]]
        self._pool = ThreadPoolExecutor(num_workers) if num_workers else None

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """uint8 [B, img_px, img_px, 3] of the numbered images, in that order; a broken shard is a `UserError`."""
        import numpy as np

        images = np.empty((len(indices), self.img_px, self.img_px, 3), np.uint8)
        decode = self._pool.map if self._pool else map
        for row, image in enumerate(decode(self._decode, indices)):
            images[row] = image
        return images

    def _decode(self, index: int) -> np.ndarray:
        import numpy as np
        from PIL import Image

        _, shard, offset, size = self._places[index].tolist()
        content = read_range(self._paths[shard], offset, size)
        try:
            return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise shards.broken(self._paths[shard], f"image {self.keys[index]} does not decode") from error


def check_shard(folder: Path, entry: dict[str, Any]) -> Path:
    """The path of a shard that is there and as long as the index says; else `UserError`."""
    path = folder / entry["name"]
    if not path.is_file():
        raise UserError(f"{path}: missing, though the index lists it. Run `dvc checkout` or `dvc repro`.")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise shards.broken(path, f"{size:,} bytes long, the index says {entry['bytes']:,}")
    return path


def read_range(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset`; `UserError` if it is not that long or not there any more."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise shards.broken(path, str(error.strerror)) from error
    try:
        content = os.pread(file, size, offset)
    finally:
        os.close(file)
    if len(content) < size:
        raise shards.broken(path, "it ends inside an image")
    return content
