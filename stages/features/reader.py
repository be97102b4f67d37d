"""Read feature shards: the features of any images of a split by number, or of all in order."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stages.core import artifact
from stages.data.tar_index import TarIndex

FIELD = "npy"


class FeatureSplit:
    """The features of one split, in the order of the index. A missing or broken shard is a `UserError`.

    Iterating over it gives float16 [N, D] per image.
    """

    def __init__(self, folder: Path, split: str):
        self._index = TarIndex(folder, artifact.read_config(folder, "features"), split)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._load, range(len(self)))

    def keys(self, indices: np.ndarray | Sequence[int] | slice = slice(None)) -> list[str]:
        """The keys of the numbered images, of all if none are named: those of the images artifact."""
        return self._index.keys(indices)

    def read(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """float16 [B, N, D] of the numbered images, in that order."""
        return np.stack([self._load(number) for number in np.asarray(indices).tolist()])

    def _load(self, number: int) -> np.ndarray:
        try:
            return np.load(io.BytesIO(self._index.read(number, FIELD)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise self._index.unreadable(number) from error
