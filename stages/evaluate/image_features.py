"""Features, logits and thumbnails of an image set, extracted in batches."""

from collections.abc import Callable, Iterable
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
    """The features of `count` images; `read` returns the images of a range of numbers, uint8 [B, H, W, 3]."""
    return join(extract(read(batch)) for batch in batches(count, batch_size))


def join(parts: Iterable[ImageFeatures]) -> ImageFeatures:
    """All batches as one."""
    parts = list(parts)
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    logits = {name: torch.cat([part.logits[name] for part in parts]) for name in parts[0].logits}
    return ImageFeatures(features, logits, torch.cat([part.thumbs for part in parts]))


def batches(count: int, size: int) -> list[range]:
    """0 … count - 1 in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
