"""What all images are compared with: the training images, in the feature spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact
from stages.core.choice import choose
from stages.data.reader import ImageSplit, image_facts
from stages.evaluate.metrics import ball_radii
from stages.evaluate.sight import Look, Sight, batches, join, looker

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.core.params import Machine
    from stages.core.spaces import Space
    from stages.evaluate.score import Params


@dataclass(frozen=True)
class Bench:
    """`reference` are real training images, `reference_index` int64 [R] their numbers in the train split.

    `reference_radii` {space: [R]} are those of the balls of precision.
    """

    facts: dict[str, Any]
    images_digest: str
    spaces: dict[str, Space]
    look: Look
    train: ImageSplit
    reference: Sight
    reference_index: np.ndarray
    reference_radii: dict[str, Tensor]
    params: Params
    batch_size: int

    def see(self, count: int, read: Callable[[range], np.ndarray]) -> Sight:
        """All of `count` images that `read` gives in batches, uint8 [B, H, W, 3]."""
        return join(self.look(read(batch)) for batch in batches(count, self.batch_size))

    def coordinates(self, sight: Sight) -> dict[str, Tensor]:
        """Where nearest neighbours are sought, float [M, …] by name.

        Distances are "pixel": root mean square difference of thumbnails, 1 from black to white; "embedded": Euclidean.
        """
        return {"pixel": sight.thumbs / (2 * sight.thumbs.shape[1] ** 0.5), "embedded": sight.features["embedded"]}

    def judges(self, labels: np.ndarray) -> bool:
        """Whether there is a judge, and every image a class int64 [M] that it could see."""
        return "judge" in self.spaces and bool((labels >= 0).all())


def set_up(images: Path, spaces: dict[str, Space], params: Params, machine: Machine) -> Bench:
    """Read the reference once."""
    train = ImageSplit(images, "train", machine.num_workers)
    look, index = looker(spaces, params.pixel_px), reference_index(len(train), params)
    runs = batches(len(index), machine.infer_batch_size)
    reference = join(look(train.read(index[run.start : run.stop])) for run in runs)
    facts, digest = image_facts(images), artefact.digest(images)
    radii = {space: ball_radii(feats, params.prc_neighbours) for space, feats in reference.features.items()}
    return Bench(facts, digest, spaces, look, train, reference, index, radii, params, machine.infer_batch_size)


def reference_index(count: int, params: Params) -> np.ndarray:
    """int64 [R], sorted: a seeded choice of max_reference_images of the training images, or all of them."""
    return choose(count, params.max_reference_images or count, params.seed)
