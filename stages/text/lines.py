"""Texts on disk, one per line, read by number: <name>.txt in UTF-8, and the place of each line in <name>.lines.npy."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from stages.data.tar_index import read_range


class Lines:
    """The texts of a file; memory holds 8 bytes of each."""

    def __init__(self, path: Path):
        self._path = path
        self._places: np.ndarray = np.load(path.with_suffix(".lines.npy"))

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, numbers: slice) -> list[str]:
        """The texts of a range of numbers."""
        start, stop, _ = numbers.indices(len(self))
        if start >= stop:
            return []
        begin, end = self._places[[start, stop]].tolist()
        return read_range(self._path, begin, end - begin - 1).decode().split("\n")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]


def write_lines(path: Path, texts: Iterable[str]) -> None:
    """Write both files; no text may hold a line feed."""
    places = [0]
    with open(path, "wb") as file:
        for text in texts:
            places.append(places[-1] + file.write(text.encode() + b"\n"))
    np.save(path.with_suffix(".lines.npy"), np.array(places, np.int64))
