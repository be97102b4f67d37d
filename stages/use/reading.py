"""Image files -> squares for a tokenizer, read in threads ahead of the network."""

import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from stages.core import UserError
from stages.data.decode import pillow_warnings
from stages.data.source import refusal
from stages.data.squares import Square, square_of
from stages.data.threads import in_threads
from stages.use.files import Found, ImageFile, check_any

BATCH, GROUP = 256, 32  # images per batch of a network, as in `Tokenizer.encode`; per item of a reading thread
AHEAD = 2 * BATCH // GROUP  # groups: a whole batch is read while the network works on the one before it
MOST_THREADS = 8


def read_group(square: Square, files: Sequence[ImageFile]) -> list[np.ndarray | str]:
    """uint8 [img_px, img_px, 3] of some files, or why a file has none."""
    found: list[np.ndarray | str] = []
    for file in files:
        try:
            found.append(square_of(file.path, square))
        except UserError as error:
            found.append(str(error).removeprefix(f"{file.path}: "))
    return found


def read_batches(found: Found, square: Square) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and uint8 [B, img_px, img_px, 3] of BATCH good images at a time; broken ones are added to `found.refused`.

    Threads read up to two batches ahead, so memory does not grow with the number of files. A batch has the same images
    whatever the number of threads.
    """
    groups = [found.files[start : start + GROUP] for start in range(0, len(found.files), GROUP)]
    good: list[tuple[str, np.ndarray]] = []
    threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2))  # small files: more would wait for Python's lock
    with pillow_warnings():
        read = in_threads(partial(read_group, square), groups, threads, AHEAD)
        for group, results in zip(groups, read, strict=True):
            for file, result in zip(group, results, strict=True):
                if isinstance(result, str):
                    found.refused.append(refusal(file.name, result))
                else:
                    good.append((file.name, result))
            if len(good) >= BATCH:
                yield batch_of(good[:BATCH])
                del good[:BATCH]
    if good:
        yield batch_of(good)


def batch_of(good: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """Their names, and their squares as one array."""
    return [name for name, _ in good], np.stack([image for _, image in good])


def read_all(found: Found, square: Square) -> tuple[list[str], np.ndarray]:
    """The good ones of a few images at once; `UserError` if there is none."""
    batches = [*read_batches(found, square)]
    check_any(sum(len(names) for names, _ in batches), found)
    return [name for names, _ in batches for name in names], np.concatenate([images for _, images in batches])
