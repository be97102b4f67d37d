"""Mean intersection over union of label maps, and what the best label per cell of a grid scores.

That is the ceiling of pixel accuracy on the grid; of the mean IoU it is what such labels score, not a proven bound.
"""

from typing import Any

import numpy as np

IGNORED = -1  # a pixel without label


def confusion(labels: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: pixels by label (rows) and prediction; ignored pixels are left out.

    labels int64 [B, H, W]; found int64 [B, h, w], whose grid is enlarged to the pixels that it covers.
    """
    found, known = enlarged(found, labels.shape[1:]), labels != IGNORED
    counts = np.bincount(labels[known] * classes + found[known], minlength=classes**2)
    return counts.reshape(classes, classes)


def enlarged(grid: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[B, h, w] -> [B, *size]: every pixel has the value of the cell that its center lies in."""
    rows, columns = (cells_of(side, cells) for side, cells in zip(size, grid.shape[1:], strict=True))
    return grid[:, rows[:, None], columns[None]]


def cells_of(side: int, cells: int) -> np.ndarray:
    """int64 [side]: the cell of each pixel along one axis."""
    return (2 * np.arange(side) + 1) * cells // (2 * side)


def majority(labels: np.ndarray, grid: int, classes: int) -> np.ndarray:
    """int64 [B, grid, grid]: the most frequent label in each cell, of equally frequent ones the lowest; 0 without any.

    labels int64 [B, H, W].
    """
    rows, columns = (cells_of(side, grid) for side in labels.shape[1:])
    cells = rows[:, None] * grid + columns[None] + np.arange(len(labels))[:, None, None] * grid**2
    known = labels != IGNORED
    counts = np.bincount(cells[known] * classes + labels[known], minlength=len(labels) * grid**2 * classes)
    return counts.reshape(len(labels), grid, grid, classes).argmax(-1)


def ious(counts: np.ndarray) -> np.ndarray:
    """float64 [classes]: intersection over union of all images together; NaN for a class that is nowhere."""
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return np.divide(right, union, out=np.full(len(counts), np.nan), where=union > 0)


def scores(counts: np.ndarray, background: bool) -> dict[str, float]:
    """Mean IoU of the classes that occur, share of right pixels; with `background` (class 0) also without that."""
    each = ious(counts)
    found: dict[str, Any] = {"miou": np.nanmean(each), "pixel_accuracy": np.diag(counts).sum() / counts.sum()}
    if background:
        found["miou_objects"] = np.nanmean(each[1:])
    return {name: float(value) for name, value in found.items()}
