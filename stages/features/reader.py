"""Read feature shards: the features of any images of a split by number, one file read each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import shards
from stages.data.reader import read_range

if TYPE_CHECKING:
    import numpy as np


class FeatureSplit:
    """The features of one split, in the order of the index; 32 bytes of memory an image, no file kept open.

    A missing or broken shard is a `UserError`.
    """

    def __init__(self, folder: Path, split: str):
        import numpy as np

        self._paths = shards.shard_paths(folder, "features", split)
        places = [
            (int(key), shard, offset, size)
            for shard, path in enumerate(self._paths)
            for key, offset, size in shards.members(path, "npy")
        ]
        self._places: np.ndarray = np.array(places, np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._places)

    def keys(self, indices: np.ndarray) -> list[str]:
        """The keys of the numbered images: those of the images artefact."""
        return [f"{key:08d}" for key in self._places[indices, 0].tolist()]

    def read(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """float16 [B, N, D] of the numbered images, in that order."""
        import numpy as np

        places = self._places[np.asarray(indices), 1:].tolist()
        contents = [read_range(self._paths[shard], offset, size) for shard, offset, size in places]
        return np.stack([np.load(io.BytesIO(content), allow_pickle=False) for content in contents])
