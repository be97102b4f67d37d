"""Folders of ADE20K's and of COCO's form: their images in squares, with a label per pixel or with boxes.

ADE20K   images/{training,validation}/*.jpg, annotations/{training,validation}/*.png of the same names, and
         objectInfo150.txt or classes.txt, a name per line; a label counts from 1, 0 is "other" and ignored
COCO     annotations/instances_{train,val}*.json, and images in folders named as these files end, such as train2017
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from stages.core import UserError
from stages.data.decode import (
    EXTENSIONS,
    FILE_BYTES,
    FORMATS,
    TURNED,
    Crop,
    Size,
    decode_rgb,
    explain,
    open_upright,
    read_file,
    shown_box,
    to_square,
)
from stages.data.source import Refused
from stages.recognition.average_precision import Boxes
from stages.recognition.miou import IGNORED

ADE_SPLITS = {"train": "training", "val": "validation"}


class Folder:
    """Images of one split by number; subclasses fill `paths` and `classes`."""

    paths: list[Path]
    classes: list[str]

    def __init__(self, folder: Path, img_px: int, crop: Crop):
        self.folder, self.img_px, self.crop = folder, img_px, crop

    def __len__(self) -> int:
        return len(self.paths)

    def files(self) -> list[Path]:
        """What the split is read from: the images, and the labels that a subclass adds."""
        return self.paths

    def keys_of(self, numbers: Iterable[int]) -> list[str]:
        """The names of the numbered images."""
        return [self.paths[number].name for number in numbers]

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [B, img_px, img_px, 3]; `UserError` for a file that is no image."""
        images = [opened(self.paths[number], lambda content: decode_rgb(content)[0]) for number in numbers]
        return np.stack([np.asarray(to_square(image, self.img_px, self.crop, "white")) for image in images])

    def size(self, number: int) -> Size:
        """Width and height of an image as it is shown, from its file's header."""
        return opened(self.paths[number], upright_size)


def opened(path: Path, decode: Any) -> Any:
    """What `decode` makes of a file's bytes; `UserError` that names the file if they are no image."""
    try:
        return decode(read_file(path, FILE_BYTES))
    except Exception as error:  # whatever Pillow raises
        raise UserError(f"{path}: {error if isinstance(error, Refused) else explain(error)}") from error


def upright_size(content: bytes) -> Size:
    """Width and height by the EXIF orientation; no pixels are decoded."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    turned = image.getexif().get(Base.Orientation) in TURNED
    return (image.height, image.width) if turned else image.size


class Ade(Folder):
    """One split of a folder of ADE20K's form."""

    background = False

    def __init__(self, folder: Path, split: str, img_px: int, crop: Crop):
        super().__init__(folder, img_px, crop)
        self.classes = class_names(folder)
        images, labels = (folder / part / ADE_SPLITS[split] for part in ("images", "annotations"))
        self.paths = sorted(path for path in images.glob("*") if path.suffix.lower() in EXTENSIONS)
        self.labels = [labels / f"{path.stem}.png" for path in self.paths]
        if not self.paths:
            raise UserError(f"{images}: no images there; expected {' '.join(EXTENSIONS)}")
        if missing := [path for path in self.labels if not path.is_file()]:
            raise UserError(
                f"{missing[0]}: missing ({len(missing)} of {len(self)}); expected a PNG of labels per image"
            )

    def files(self) -> list[Path]:
        return [*self.paths, *self.labels]

    def masks(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [B, img_px, img_px]: the class from 0, IGNORED for "other" and for padding."""
        return np.stack([self.mask(number) for number in numbers])

    def mask(self, number: int) -> np.ndarray:
        """int64 [img_px, img_px] of one image."""
        path = self.labels[number]
        (image, size), wanted = opened(path, open_upright), self.size(number)
        if image.mode not in ("L", "P", "I", "I;16"):
            raise UserError(f"{path}: mode {image.mode}: expected one number per pixel, gray or palette")
        if size != wanted:
            raise UserError(f"{path}: {size[0]}x{size[1]} pixels, its image has {wanted[0]}x{wanted[1]}")
        values = np.asarray(to_square(image, self.img_px, self.crop, 0, nearest=True)).astype(np.int64)
        if values.max() > len(self.classes):
            raise UserError(f"{path}: label {values.max()}: expected 0 (other) to {len(self.classes)}, one per class")
        return np.where(values > 0, values - 1, IGNORED)


def class_names(folder: Path) -> list[str]:
    """The names of the classes, by ADE20K's own table or a plain list."""
    for path in (folder / "objectInfo150.txt", folder / "classes.txt"):
        if path.is_file():
            lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            return lines if path.name == "classes.txt" else [line.split("\t")[-1].strip() for line in lines[1:]]
    raise UserError(f"{folder}: no objectInfo150.txt and no classes.txt; expected the names of the labels 1, 2, …")


class Coco(Folder):
    """One split of a folder of COCO's form. Boxes are clipped to the square; those outside it are left out."""

    def __init__(self, folder: Path, split: str, img_px: int, crop: Crop):
        super().__init__(folder, img_px, crop)
        found = sorted(folder.glob(f"annotations/instances_{split}*.json"))
        if len(found) != 1:
            raise UserError(f"{folder}/annotations: {len(found)} files instances_{split}*.json; expected one")
        [self.file] = found
        content = self.loaded()
        categories = sorted((entry["id"], entry["name"]) for entry in content["categories"])
        self.classes = [name for _, name in categories]
        self.numbers = {category: place for place, (category, _) in enumerate(categories, 1)}
        images = sorted(content["images"], key=lambda entry: entry["id"])
        place = folder / self.file.stem.removeprefix("instances_")
        self.paths = [place / entry["file_name"] for entry in images]
        if missing := [path for path in self.paths if not path.is_file()]:
            raise UserError(f"{missing[0]}: missing ({len(missing)} of {len(self)}), though {self.file} lists it")
        self.annotations = self.by_image(content["annotations"], {entry["id"]: n for n, entry in enumerate(images)})

    def loaded(self) -> dict[str, list[dict[str, Any]]]:
        """The JSON with lists of images, annotations and categories."""
        try:
            content = json.loads(self.file.read_bytes())
        except ValueError as error:
            raise UserError(f"{self.file}: not valid JSON: {error}") from None
        needed = {"images": ("id", "file_name"), "categories": ("id", "name"),
                  "annotations": ("id", "image_id", "category_id", "bbox")}  # fmt: skip
        for name, keys in needed.items():
            entries = content.get(name) if isinstance(content, dict) else None
            if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
                raise UserError(f"{self.file}: expected a list `{name}` of objects")
            if bad := [entry for entry in entries if not {*keys} <= entry.keys()]:
                raise UserError(f"{self.file}: {name}: {bad[0]!r:.100}: expected the keys {', '.join(keys)}")
        return content

    def by_image(self, annotations: list[dict[str, Any]], places: dict[int, int]) -> list[np.ndarray]:
        """Per image float64 [n, 6]: x0, y0, x1, y1 in pixels of the file, class from 1, whether it is a crowd."""
        found: list[list[list[float]]] = [[] for _ in self.paths]
        for entry in annotations:
            box, where = entry["bbox"], f"{self.file}: annotation {entry['id']}"
            numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
            if not numbers or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
                raise UserError(f"{where}: bbox {box!r:.80}: expected [x, y, width, height]")
            if entry["category_id"] not in self.numbers or entry["image_id"] not in places:
                raise UserError(f"{where}: its category_id or image_id is not in the lists of the file")
            x, y, width, height = box
            row = [x, y, x + width, y + height, self.numbers[entry["category_id"]], entry.get("iscrowd", 0)]
            found[places[entry["image_id"]]].append(row)
        return [np.array(rows, float).reshape(-1, 6) for rows in found]

    def files(self) -> list[Path]:
        return [*self.paths, self.file]

    def boxes(self, numbers: Sequence[int] | np.ndarray) -> list[Boxes]:
        """The boxes of the numbered images, in pixels of the square."""
        return [self.placed(self.annotations[number], self.size(number)) for number in numbers]

    def placed(self, rows: np.ndarray, size: Size) -> Boxes:
        """Boxes of a file of `size` in its square."""
        left, top, right, bottom = shown_box(size, self.img_px, self.crop)
        scale = self.img_px / np.array([right - left, bottom - top] * 2)
        corners = ((rows[:, :4] - [left, top] * 2) * scale).clip(0, self.img_px)
        kept = (corners[:, :2] < corners[:, 2:]).all(1)
        return Boxes(corners[kept], rows[kept, 4].astype(int), crowds=rows[kept, 5] > 0)


def digest(splits: dict[str, Any]) -> str:
    """12 hex digits of the names, sizes and times of the images and labels of all splits; "" of the scenes."""
    files = [path for split in splits.values() if isinstance(split, Folder) for path in split.files()]
    facts = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12] if facts else ""
