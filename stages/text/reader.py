"""Read a text artifact: captions by image, and what a generator is given of them.

texts = load_texts(Path("data/text/words"), "val")
rows = texts.first_rows(np.arange(8))    # the first caption of each image, -1 where it has none
texts.given(rows)                        # int64 [8, W] ids, or float32 [8, W, D + 1] features
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stages.core import artifact
from stages.core.code import import_kind
from stages.text.lines import Lines
from stages.text.params import KINDS

TYPE, ENCODER = "text", "encoder"


@dataclass(frozen=True)
class Texts:
    """The captions of one split. `given`: rows int64 [B], -1 for no caption -> the generator's input."""

    first: np.ndarray  # int64 [images + 1]
    labels: np.ndarray  # int64 [images]
    captions: Lines
    given: Callable[[np.ndarray], Tensor]
    config: dict[str, Any]

    def first_rows(self, images: np.ndarray) -> np.ndarray:
        """int64 [B]: the row of each image's first caption, -1 without."""
        return np.where(self.first[images + 1] > self.first[images], self.first[images], -1)

    def drawn_rows(self, images: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """int64 [B]: the row of one caption of each image, by uniforms in [0, 1), -1 without."""
        start, count = self.first[images], self.first[images + 1] - self.first[images]
        return np.where(count > 0, start + (uniform * count).astype(np.int64), -1)


def text_facts(folder: Path) -> dict[str, Any]:
    """The config.json of a text artifact: kind, shape of what is given, counts."""
    return artifact.read_config(folder, TYPE)


def load_texts(folder: Path, split: str) -> Texts:
    """The captions of `train` or `val`; a file whose hash differs from the config's is an error."""
    config = text_facts(folder)
    for end in ("captions.txt", "captions.lines.npy"):
        artifact.checked(folder, f"{split}.{end}")
    first, labels = (np.load(artifact.checked(folder, f"{split}.{end}")) for end in ("first.npy", "labels.npy"))
    given = import_kind(KINDS[config["kind"]].module).reader(folder, split, config)
    return Texts(first, labels, Lines(folder / f"{split}.captions.txt"), given, config)


def load_encoder(folder: Path) -> Any:
    """The encoder of a text_encoder artifact: `encode(caption)` -> a row of the generator's input."""
    config = artifact.read_config(folder, "text_encoder")
    return import_kind(KINDS[config["kind"]].module).load(folder)
