"""Features, logits and thumbnails of an image set, extracted in batches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.core.images import thumbnails, to_float
from stages.evaluate.extractors import FeatureExtractor


@dataclass(frozen=True)
class ImageFeatures:
    """M images: `features`, `logits` {extractor: float32 [M, …]}; `thumbs` float32 [M, 3 * px * px] in [-1, 1]."""

    features: dict[str, Tensor]
    logits: dict[str, Tensor]
    thumbs: Tensor

    def __len__(self) -> int:
        return len(self.thumbs)

    def subset(self, index: np.ndarray) -> "ImageFeatures":
        """The images with these numbers, int64 [any]."""
        features, logits = ({name: one[index] for name, one in of.items()} for of in (self.features, self.logits))
        return ImageFeatures(features, logits, self.thumbs[index])

    def room_for(self, count: int) -> "ImageFeatures":
        """Uninitialized tensors for `count` images like these."""
        features, logits = (
            {name: one.new_empty(count, *one.shape[1:]) for name, one in of.items()}
            for of in (self.features, self.logits)
        )
        return ImageFeatures(features, logits, self.thumbs.new_empty(count, *self.thumbs.shape[1:]))

    def write(self, start: int, part: "ImageFeatures") -> None:
        """Replace the images from number `start` on by those of `part`."""
        for own, given in ((self.features, part.features), (self.logits, part.logits)):
            for name, one in given.items():
                own[name][start : start + len(part)] = one
        self.thumbs[start : start + len(part)] = part.thumbs

    def classified_as(self, labels: np.ndarray) -> np.ndarray:
        """bool [M]: whether the classifier predicts the class int64 [M]."""
        return self.logits["classifier"].argmax(1).numpy() == labels


Extract = Callable[[np.ndarray], ImageFeatures]


def make_extractor(extractors: dict[str, FeatureExtractor], px: int) -> Extract:
    """A function from uint8 [B, H, W, 3] to their ImageFeatures with thumbnails of `px` px."""

    @torch.inference_mode()
    def extract(images: np.ndarray) -> ImageFeatures:
        found = {name: extractor.features(images) for name, extractor in extractors.items()}
        features = {name: parts[0] for name, parts in found.items()}
        logits = {name: parts[1] for name, parts in found.items() if len(parts) > 1}
        return ImageFeatures(features, logits, thumbnails(to_float(images), px))

    return extract


def extract_all(count: int, read: Callable[[range], np.ndarray], extract: Extract, batch_size: int) -> ImageFeatures:
    """The features of `count` images, 1 or more; `read` returns the images of a range of numbers, uint8 [B, H, W, 3].

    Every batch is written to its place: a list of them and its concatenation would take twice the memory.
    """
    first, *rest = batches(count, batch_size)
    part = extract(read(first))
    whole = part.room_for(count)
    whole.write(0, part)
    for batch in rest:
        whole.write(batch.start, extract(read(batch)))
    return whole


def batches(count: int, size: int) -> list[range]:
    """0 … count - 1 in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
