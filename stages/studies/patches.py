"""The image patch at each position of a code grid, and decoding by a lookup table of one patch per code."""

import numpy as np

from stages.core.metrics import psnr
from stages.core.params import impossible


def patch_side(img_px: int, grid: int) -> int:
    """Side of a patch in px; images smaller than the grid are an error."""
    if img_px < grid:
        raise impossible("data.img_px", img_px, f"expected at least 1 px for each of the {grid} codes along a side")
    return img_px // grid


def patches(images: np.ndarray, grid: int, positions: int) -> np.ndarray:
    """uint8 [B, H, W, 3] -> uint8 [B, positions, p, p, 3], row-major, p = H // grid.

    Where `grid` does not divide the side, no patch covers the pixels in between. With several codes per position of the
    grid (`positions` is a multiple of grid²) each of them gets the same patch.
    """
    side = images.shape[1]
    pixels = patch_corners(side, grid)[:, None] + np.arange(patch_side(side, grid))
    cut = images[:, pixels][:, :, :, pixels].transpose(0, 1, 3, 2, 4, 5)
    return np.tile(cut.reshape(len(images), grid**2, *cut.shape[3:]), (1, positions // grid**2, 1, 1, 1))


def patch_corners(side_px: int, grid: int) -> np.ndarray:
    """int64 [grid]: the first pixel of each row (or column) of patches."""
    return np.arange(grid) * side_px // grid


class PatchTable:
    """The mean patch of every code: of all tables code -> patch, the one with the least squared error on its data."""

    def __init__(self, num_codes: int, patch_px: int):
        self.sums = np.zeros((num_codes, patch_px, patch_px, 3))
        self.counts = np.zeros(num_codes, np.int64)

    def add(self, codes: np.ndarray, found: np.ndarray) -> None:
        """codes [B, N] and their patches, uint8 [B, N, p, p, 3]."""
        order = np.argsort(codes, axis=None, kind="stable")
        present, starts = np.unique(codes.ravel()[order], return_index=True)
        ordered = found.reshape(-1, *found.shape[2:])[order]
        self.sums[present] += np.add.reduceat(ordered, starts, axis=0, dtype=np.float64)
        self.counts += np.bincount(codes.ravel(), minlength=len(self.counts))

    def mean(self) -> np.ndarray:
        """float64 [p, p, 3]: the mean of all patches."""
        return self.sums.sum(0) / self.counts.sum()

    def means(self) -> np.ndarray:
        """float64 [K, p, p, 3]; a code that never occurred has the mean of all patches."""
        occurring = self.counts[:, None, None, None] > 0
        return np.where(occurring, self.sums / np.maximum(self.counts, 1)[:, None, None, None], self.mean())

    def pictures(self) -> np.ndarray:
        """uint8 [K, p, p, 3]: the means, rounded."""
        return self.means().round().astype(np.uint8)


def lookup_psnr(table: np.ndarray, codes: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float64 [B], dB: patches uint8 [B, N, p, p, 3] against the table's (uint8 [K, p, p, 3]) for codes [B, N]."""
    flat = (len(found), -1, *found.shape[3:])
    return psnr(found.reshape(flat), table[codes].reshape(flat))
