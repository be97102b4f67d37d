"""One pass over images: the codes, patches and continuous rows of a batch at a time, for whoever collects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer
    from stages.data.reader import ImageSplit


@dataclass(frozen=True)
class Batch:
    """B images: where they stand among the chosen ones, patches uint8 [B, N, p, p, 3], codes int64 [B, N], rows
    float32 [B, N, D], placed among the code vectors."""

    start: int
    patches: np.ndarray
    codes: np.ndarray
    rows: np.ndarray

    @property
    def colours(self) -> np.ndarray:
        """float64 [B, N, 3]: each patch's mean red, green and blue, from 0 to 1."""
        return self.patches.mean((2, 3)) / 255


@dataclass(frozen=True)
class Survey:
    """Of M images: their numbers in the split, codes int64 [M, N], mean rows float32 [M, D], labels int64 [M]."""

    index: np.ndarray
    codes: np.ndarray
    mean_rows: np.ndarray
    labels: np.ndarray


def survey(
    split: ImageSplit, index: np.ndarray, tokenizer: Tokenizer, batch_size: int, see: Iterable[Callable[[Batch], Any]]
) -> Survey:
    """Pass the numbered images through the tokenizer; every collector in `see` is shown every batch."""
    import numpy as np

    from stages.core.progress import bar

    codes, mean_rows = [], []
    with bar("anatomy", len(index), 0, "image") as progress:
        for start in range(0, len(index), batch_size):
            batch = tokenise(split, index[start : start + batch_size], tokenizer, start)
            codes.append(batch.codes)
            mean_rows.append(batch.rows.mean(1))
            for collect in see:
                collect(batch)
            progress.update(len(batch.codes))
    return Survey(index, np.concatenate(codes), np.concatenate(mean_rows), split.labels[index])


def tokenise(split: ImageSplit, index: np.ndarray, tokenizer: Tokenizer, start: int) -> Batch:
    """The numbered images as one batch."""
    import torch

    from stages.core.patches import patches
    from stages.core.pixels import to_float

    images = split.read(index)
    with torch.inference_mode():
        rows = tokenizer.rows(to_float(images, tokenizer.codebook.vectors.device))
        codes, placed = tokenizer.codebook.assign(rows), tokenizer.codebook.placed(rows)
    cut = patches(images, tokenizer.grid, tokenizer.num_patches)
    return Batch(start, cut, codes.cpu().numpy(), placed.cpu().numpy())
