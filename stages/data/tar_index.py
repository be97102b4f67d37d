"""Members of shards by number, through the index that lies beside them (stages/data/shards.py).

Readers do without webdataset, whose import takes torch's with it: stages that need no torch start in half the time.
"""

import os
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from stages.core import UserError, artifact


class TarIndex:
    """The members of a split's shards, by the number of their sample and the name of their field.

    The index is a memory map. Reading is thread-safe and keeps no file open: a data set may have more shards than a
    process may open files. A shard that is missing, or not as long as config.json says, is a `UserError` at once; its
    sha256 is compared when it is first read.
    """

    def __init__(self, folder: Path, config: dict[str, Any], split: str):
        index = np.load(artifact.checked(folder, f"{split}.index.npy"), mmap_mode="r")
        self._columns = {name: index[name].view(np.ndarray) for name in index.dtype.names}  # as memmaps: 10 x slower
        self._paths = [check_shard(folder, entry) for entry in config["splits"][split]["shards"]]
        self._hashes = [config["files"][path.name] for path in self._paths]
        # Of each shard, whether it was compared: in memory that forked processes share. A lock each, for threads.
        self._intact, self._locks = mmap(-1, max(1, len(self._paths))), [Lock() for _ in self._paths]

    def __len__(self) -> int:
        return len(self._columns["key"])

    def keys(self, numbers: np.ndarray | Sequence[int] | slice = slice(None)) -> list[str]:
        """The keys of the numbered samples, of all if none are named."""
        return [f"{key:08d}" for key in self._columns["key"][numbers].tolist()]

    def having(self, field: str) -> np.ndarray:
        """int64 [M]: the numbers of the samples that have the field."""
        return np.flatnonzero(self._columns[field][:, 0]) if field in self._columns else np.empty(0, np.int64)

    def read(self, number: int, field: str) -> bytes:
        """The content of a field; `UserError` if its shard is gone or not as it was written."""
        offset, size = self._columns[field][number].tolist()
        shard = self._columns["shard"][number]
        path = self._paths[shard]
        try:
            if not self._intact[shard]:
                self._compare(int(shard))
            content = read_range(path, offset, size)
        except OSError as error:
            raise broken(path, str(error.strerror)) from error
        if len(content) < size:
            raise broken(path, "it ends inside a sample")
        return content

    def unreadable(self, number: int) -> UserError:
        """The error for a sample whose bytes are not what its field should hold."""
        path = self._paths[self._columns["shard"][number]]
        return broken(path, f"image {self.keys([number])[0]} does not decode")

    def _compare(self, shard: int) -> None:
        with self._locks[shard]:
            if not self._intact[shard] and not artifact.is_intact(self._paths[shard], self._hashes[shard]):
                raise broken(self._paths[shard], f"its sha256 differs from that in {artifact.CONFIG}")
            self._intact[shard] = 1


def check_shard(folder: Path, entry: dict[str, Any]) -> Path:
    """The path of a shard that is there and as long as config.json says; else `UserError`."""
    path = folder / entry["name"]
    if not path.is_file():
        raise UserError(f"{path}: missing, though {artifact.CONFIG} lists it. Run `dvc checkout` or `dvc repro`.")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise broken(path, f"{size:,} bytes long, {artifact.CONFIG} says {entry['bytes']:,}")
    return path


def read_range(path: Path, offset: int, size: int) -> bytes:
    """At most `size` bytes of a file from `offset`."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, size, offset)
    finally:
        os.close(file)


def broken(path: Path, why: str) -> UserError:
    """The error for a shard that cannot be read as the index says."""
    return UserError(f"{path}: broken shard ({why}). {artifact.restoring(path.parent)}")
