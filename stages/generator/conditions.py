"""What a generator is given of an image: its class, or one of its captions; `condition` of its section says which.

Numbers stand for it until a batch is made: a class or the row of a caption. An image without it trains unconditionally.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.core import UserError, artifact
from stages.generator.params import Training
from stages.text.reader import load_texts, text_facts
from stages.tokens.reader import Tokens


class Conditions(Protocol):
    """How images of both splits condition a generator."""

    shape: dict[str, Any]  # arguments of TokenTransformer
    facts: dict[str, Any]  # for the config.json of the generator
    folder: Path | None  # the text artifact

    def of(self, split: str, images: np.ndarray) -> np.ndarray:
        """int64 [B]: the number of each image's class or first caption."""
        ...

    def drawn(self, images: np.ndarray, dropout: float, rng: np.random.Generator) -> np.ndarray:
        """int64 [B]: the number that each train image is trained with, dropped with probability `dropout`."""
        ...

    def given(self, split: str, numbers: np.ndarray) -> Tensor:
        """[B, …]: the input of the network for these numbers."""
        ...


class ClassConditions:
    """The class of each image."""

    def __init__(self, data: dict[str, Tokens]):
        self.labels = {split: tokens.labels for split, tokens in data.items()}
        self.none = data["train"].num_classes
        self.shape: dict[str, Any] = {"num_classes": self.none}
        self.facts: dict[str, Any] = {}
        self.folder: Path | None = None

    def of(self, split: str, images: np.ndarray) -> np.ndarray:
        labels = self.labels[split][images]
        return np.where(labels < 0, self.none, labels)

    def drawn(self, images: np.ndarray, dropout: float, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(len(images)) < dropout, self.none, self.of("train", images))

    def given(self, split: str, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers)


class CaptionConditions:
    """One of the captions of each image, as a text artifact holds them."""

    def __init__(self, folder: Path):
        config = text_facts(folder)
        self.texts = {split: load_texts(folder, split) for split in ("train", "val")}
        self.shape: dict[str, Any] = {"num_classes": 0, "caption": config["shape"]}
        self.facts: dict[str, Any] = {"text_encoder": config["name"], "captions": config["splits"]}
        self.folder: Path | None = folder

    def of(self, split: str, images: np.ndarray) -> np.ndarray:
        return self.texts[split].first_rows(images)

    def drawn(self, images: np.ndarray, dropout: float, rng: np.random.Generator) -> np.ndarray:
        dropped, which = rng.random(len(images)) < dropout, rng.random(len(images))
        return np.where(dropped, -1, self.texts["train"].drawn_rows(images, which))

    def given(self, split: str, numbers: np.ndarray) -> Tensor:
        return self.texts[split].given(numbers)


def open_conditions(
    section: str, training: Training, data: dict[str, Tokens], tokens: Path, text: Path | None
) -> Conditions:
    """By class or by caption, as `condition` says; `UserError` without captions, or with those of other images."""
    if training.condition == "class":
        return ClassConditions(data)
    if text is None:
        raise UserError(f"{section}.condition = 'caption': captions.{section.rpartition('.')[2]} names no text encoder")
    if artifact.images_digest(text) != artifact.images_digest(tokens):
        raise UserError(f"{text}: captions of other images than {tokens}. Run `dvc repro text tokens`.")
    return CaptionConditions(text)
