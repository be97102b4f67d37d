"""Features, logits and thumbnails of an image set, extracted in batches that the processes of a torchrun share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stages.core.distributed import rank, world_size
from stages.core.hardware import waiting_group
from stages.core.images import thumbnails, to_float
from stages.evaluate.extractors import FeatureExtractor


@dataclass(frozen=True)
class ImageFeatures:
    """M images: `features`, `logits` {extractor: float32 [M, …]}; `thumbs` float32 [M, 3 * px * px].

    The distance of two thumbnails is the root mean square difference of their pixels, 1 from black to white.
    """

    features: dict[str, Tensor]
    logits: dict[str, Tensor]
    thumbs: Tensor

    def __len__(self) -> int:
        return len(self.thumbs)

    def subset(self, index: np.ndarray) -> "ImageFeatures":
        """The images with these numbers, int64 [any]."""
        features, logits = ({name: one[index] for name, one in of.items()} for of in (self.features, self.logits))
        return ImageFeatures(features, logits, self.thumbs[index])

    def tensors(self) -> list[Tensor]:
        """All of them, in the same order in every process."""
        return [*self.features.values(), *self.logits.values(), self.thumbs]

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
        thumbs = thumbnails(to_float(images), px)
        return ImageFeatures(features, logits, thumbs / (2 * thumbs.shape[1] ** 0.5))

    return extract


def extract_all(count: int, read: Callable[[range], np.ndarray], extract: Extract, batch_size: int) -> ImageFeatures:
    """The features of `count` images, 1 or more; `read` returns the images of a range of numbers, uint8 [B, H, W, 3].

    Each process reads its share of the batches and gets the features of all. Every batch is written to its place: a
    list of them and its concatenation would take twice the memory.
    """
    start, stop = edges(count, batch_size)[rank() :][:2]
    own = [batch for batch in batches(count, batch_size) if start <= batch.start < stop]
    first, *rest = own or [range(min(batch_size, count))]  # a process without a batch needs the shapes
    part = extract(read(first))
    whole = part.room_for(count)
    whole.write(first.start, part)
    for batch in rest:
        whole.write(batch.start, extract(read(batch)))
    exchange(whole.tensors(), count, batch_size)
    return whole


def edges(count: int, batch_size: int) -> list[int]:
    """The first image of each process and, at the end, `count`: whole batches, equally many."""
    total, processes = len(batches(count, batch_size)), world_size()
    return [min(total * number // processes * batch_size, count) for number in range(processes + 1)]


def exchange(tensors: Sequence[Tensor], count: int, batch_size: int) -> None:
    """Give every process all rows of tensors [count, …], of which each has filled those of its own batches."""
    starts = edges(count, batch_size)
    for owner in range(world_size() if world_size() > 1 else 0):
        for tensor in tensors:
            if len(rows := tensor[starts[owner] : starts[owner + 1]]):
                dist.broadcast(rows, owner, group=waiting_group())  # the first may compute metrics meanwhile


def batches(count: int, size: int) -> list[range]:
    """0 … count - 1 in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
