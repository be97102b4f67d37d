"""What the metrics keep of images: features, logits and thumbnails. The images themselves pass by in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.core.spaces import Space


@dataclass(frozen=True)
class Sight:
    """M images: `features` and `logits` {space: float32 [M, …]}, `thumbs` float32 [M, 3 * px * px] in [-1, 1]."""

    features: dict[str, Tensor]
    logits: dict[str, Tensor]
    thumbs: Tensor

    def __len__(self) -> int:
        return len(self.thumbs)

    def rows(self, index: np.ndarray) -> Sight:
        """The images with these numbers, int64 [any]."""
        features, logits = ({name: rows[index] for name, rows in one.items()} for one in (self.features, self.logits))
        return Sight(features, logits, self.thumbs[index])

    def hits(self, labels: np.ndarray) -> np.ndarray:
        """bool [M]: where the judge sees the class int64 [M] that was asked for."""
        return self.logits["judge"].argmax(1).numpy() == labels


Look = Callable[["np.ndarray"], Sight]


def looker(spaces: dict[str, Space], px: int) -> Look:
    """A function from uint8 [B, H, W, 3] to their Sight."""
    import torch

    from stages.core.pictures import thumbnails
    from stages.core.pixels import to_float

    @torch.inference_mode()
    def look(images: np.ndarray) -> Sight:
        found = {name: space.features(images) for name, space in spaces.items()}
        features = {name: parts[0] for name, parts in found.items()}
        logits = {name: parts[1] for name, parts in found.items() if len(parts) > 1}
        return Sight(features, logits, thumbnails(to_float(images), px))

    return look


def look_at(count: int, read: Callable[[range], np.ndarray], look: Look, size: int) -> Sight:
    """All of `count` images that `read` gives in batches of at most `size`, uint8 [B, H, W, 3]."""
    return join(look(read(batch)) for batch in batches(count, size))


def join(sights: Iterable[Sight]) -> Sight:
    """All batches as one."""
    import torch

    parts = list(sights)
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    logits = {name: torch.cat([part.logits[name] for part in parts]) for name in parts[0].logits}
    return Sight(features, logits, torch.cat([part.thumbs for part in parts]))


def batches(count: int, size: int) -> list[range]:
    """0 … count - 1 in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
