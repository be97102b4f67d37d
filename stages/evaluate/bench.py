"""What an evaluation looks at images with, and the training images that it compares them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact
from stages.data.reader import ImageSplit, image_facts
from stages.reference.reader import Reference, load_reference
from stages.reference.sight import Look, Sight, look_at, looker

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from stages.core.params import Machine
    from stages.core.spaces import Space
    from stages.evaluate.score import Params


@dataclass(frozen=True)
class Bench:
    """Feature spaces, what sees images in them, the train split and the images of it that are compared with."""

    facts: dict[str, Any]
    images_digest: str
    spaces: dict[str, Space]
    look: Look
    train: ImageSplit
    reference: Reference
    params: Params
    batch_size: int

    def see(self, count: int, read: Callable[[range], np.ndarray]) -> Sight:
        """All of `count` images that `read` gives in batches, uint8 [B, H, W, 3]."""
        return look_at(count, read, self.look, self.batch_size)

    def coordinates(self, sight: Sight) -> dict[str, Tensor]:
        """Where nearest neighbours are sought, float [M, …] by name.

        Distances are "pixel": root mean square difference of thumbnails, 1 from black to white; "embedded": Euclidean.
        """
        return {"pixel": sight.thumbs / (2 * sight.thumbs.shape[1] ** 0.5), "embedded": sight.features["embedded"]}

    def judges(self, labels: np.ndarray) -> bool:
        """Whether there is a judge, and every image a class int64 [M] that it could see."""
        return "judge" in self.spaces and bool((labels >= 0).all())


def set_up(
    images: Path, encoder: Path, judge: Path, reference: Path, params: Params, machine: Machine, device: torch.device
) -> Bench:
    """Open the feature spaces that the reference was seen in."""
    from stages.reference.extractor import open_spaces

    config = artefact.read_config(reference, "reference")
    spaces = open_spaces(encoder, judge, config["inception_weights"], device)
    return Bench(
        image_facts(images), artefact.digest(images), spaces, looker(spaces, config["pixel_px"]),
        ImageSplit(images, "train", machine.num_workers), load_reference(reference, spaces), params,
        machine.infer_batch_size,
    )  # fmt: skip
