"""Pictures beside the metrics: reconstructions, samples by class, nearest training images."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.artifact import write_atomically
from stages.core.distributed import linspace_indices
from stages.core.results import enlarge, grid, save_png

PAIRS, PAIR_COLUMNS = 32, 16
CLASS_ROWS, CLASS_COLUMNS = 20, 10


def save_reconstructions(path: Path, images: np.ndarray, decoded: np.ndarray) -> None:
    """Rows of originals uint8 [M, H, W, 3], each above the row of their reconstructions."""
    rows = [
        pictures[start : start + PAIR_COLUMNS]
        for start in range(0, len(images), PAIR_COLUMNS)
        for pictures in (images, decoded)
    ]
    save_png(path, grid(np.concatenate(rows), min(PAIR_COLUMNS, len(images)), enlarge(images.shape[1])))


def choose_samples(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """int64 [rows * columns] numbers of samples to show, -1 where a class has no more, and the columns.

    One row per class of `labels` int64 [num], at most 20 classes; if there is only one class, the first 100.
    """
    classes = np.unique(labels)
    shown = classes[linspace_indices(len(classes), CLASS_ROWS)]
    rows = [np.flatnonzero(labels == one)[:CLASS_COLUMNS] for one in shown]
    if len(classes) == 1:
        rows = [np.arange(len(labels))[: CLASS_COLUMNS * CLASS_COLUMNS]]
    columns = min(CLASS_COLUMNS, max(map(len, rows)))
    return np.concatenate([np.pad(row, (0, -len(row) % columns), constant_values=-1) for row in rows]), columns


def save_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """uint8 [M, H, W, 3] as rows of `columns`, enlarged."""
    save_png(path, grid(images, columns, enlarge(images.shape[1])))


def save_facts(path: Path, facts: dict[str, Any]) -> None:
    """What the pictures beside it show, as JSON."""
    write_atomically(path, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
