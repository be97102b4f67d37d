"""The masks and boxes of rendered scenes, with the class of every object."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stages.core import UserError
from stages.data.masks import FIELD
from stages.data.reader import ImageSplit, image_facts
from stages.data.scenes.counter_rng import ImageRng
from stages.data.scenes.objects import CLASSES, draw_objects
from stages.data.tar_index import TarIndex
from stages.recognition.average_precision import Boxes

NEAREST = 255  # value of the main object in a mask; the second has 254, and so on; 0 is the background


class Scenes:
    """One split of an images artifact of source scenes; `UserError` for images of another source."""

    background = True  # class 0 of masks

    def __init__(self, folder: Path, split: str, num_workers: int = 0):
        facts = image_facts(folder)
        if facts["source"] != "scenes":
            raise UserError(
                f"{folder}: images of source {facts['source']}: expected scenes, whose objects have classes, or a "
                "folder in recognition.data.segmentation or recognition.data.detection"
            )
        self.images, self.classes = ImageSplit(folder, split, num_workers), CLASSES
        self.read, self.keys_of = self.images.read, self.images.keys_of
        self._index, self._facts = TarIndex(folder, facts, split), facts

    def __len__(self) -> int:
        return len(self.images)

    def masks(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [B, img_px, img_px]: 0 for the background, else 1 + the class of the object that the pixel shows."""
        owners = np.stack([self._owner(number) for number in numbers])
        classes = np.concatenate([self._classes(numbers), np.full((len(numbers), 1), -1)], 1)  # last: the background
        return 1 + np.take_along_axis(classes, owners.reshape(len(numbers), -1), 1).reshape(owners.shape)

    def boxes(self, numbers: Sequence[int] | np.ndarray) -> list[Boxes]:
        """The boxes of the objects' visible parts, in pixels; classes count from 1."""
        found = []
        for number, classes in zip(numbers, self._classes(numbers), strict=True):
            corners = np.array(json.loads(self._index.read(number, "boxes.json")), float).reshape(-1, 4)
            shown = np.unique(self._owner(number))
            found.append(Boxes(corners, 1 + classes[shown[shown >= 0]]))
        return found

    def _owner(self, number: int) -> np.ndarray:
        """int64 [H, W]: the number of the object that a pixel shows, -1 for the background."""
        values = np.asarray(Image.open(io.BytesIO(self._index.read(number, FIELD)))).astype(np.int64)
        return np.where(values == 0, -1, NEAREST - values)

    def _classes(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [B, objects]: the class of each object, those that were left out too."""
        settings, keys = self._facts["scenes"], [int(key) for key in self.keys_of(numbers)]
        rng = ImageRng(self._facts["seed"], np.array(keys))
        return draw_objects(rng, settings["max_objects"], settings["patterned"]).shape
