"""Rows of a stored tensor, read from disk a run at a time: features of a reference need no memory of their own.

Mapped files would: their pages count as memory of the process until the kernel takes them back.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class StoredRows:
    """A float32 tensor [M, D] in a .safetensors file; a slice or numbered rows of it are read when asked for."""

    def __init__(self, path: Path, name: str):
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(header_bytes))[name]
        assert entry["dtype"] == "F32" and len(entry["shape"]) == 2, name
        self.path, self.shape = path, tuple(entry["shape"])
        self.start = 8 + header_bytes + entry["data_offsets"][0]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | Tensor) -> Tensor:
        """float32 [B, D]; `rows`: a slice without a step, or numbers int64 [any]."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read([(start, max(start, stop))])
        numbers = np.asarray(rows)
        return self._read([(one, one + 1) for one in numbers.ravel().tolist()]).reshape(*numbers.shape, self.shape[1])

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def _read(self, runs: list[tuple[int, int]]) -> Tensor:
        found = np.empty((sum(stop - start for start, stop in runs), self.shape[1]), "<f4")
        done = 0
        with open(self.path, "rb") as file:
            for start, stop in (run for run in runs if run[0] < run[1]):
                file.seek(self.start + 4 * self.shape[1] * start)
                file.readinto(found[done : done + stop - start].data.cast("B"))
                done += stop - start
        return torch.from_numpy(found)


Rows = Tensor | StoredRows
