"""One pass of images through a tokenizer, in batches of codes, patches and features for statistics that accumulate."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages.codebook.tokenizer import Tokenizer
from stages.core.images import to_float
from stages.core.progress import bar
from stages.data.reader import ImageSplit
from stages.studies.patches import patches


@dataclass(frozen=True)
class Batch:
    """B images from number `start` of the subset on: patches uint8 [B, N, p, p, 3], codes int64 [B, N], features
    float32 [B, N, D] in code space, comparable with code vectors."""

    start: int
    patches: np.ndarray
    codes: np.ndarray
    features: np.ndarray

    @property
    def colors(self) -> np.ndarray:
        """float64 [B, N, 3]: each patch's mean red, green and blue, from 0 to 1."""
        return self.patches.mean((2, 3)) / 255


@dataclass(frozen=True)
class Survey:
    """Of M images: numbers in the split, codes int64 [M, N], mean features float32 [M, D], labels int64 [M], and the
    patches' mean colors float32 [M, N, 3]."""

    index: np.ndarray
    codes: np.ndarray
    mean_features: np.ndarray
    labels: np.ndarray
    colors: np.ndarray


def survey(
    split: ImageSplit, index: np.ndarray, tokenizer: Tokenizer, batch_size: int,
    collectors: Iterable[Callable[[Batch], Any]],
) -> Survey:  # fmt: skip
    """Pass the numbered images through the tokenizer; every collector is called with every batch."""
    codes, mean_features, colors = [], [], []
    with bar("code_analysis", len(index), 0, "image") as progress:
        for start in range(0, len(index), batch_size):
            batch = tokenize(split, index[start : start + batch_size], tokenizer, start)
            codes.append(batch.codes)
            mean_features.append(batch.features.mean(1))
            colors.append(batch.colors.astype(np.float32))
            for collect in collectors:
                collect(batch)
            progress.update(len(batch.codes))
    kept = map(np.concatenate, (codes, mean_features))
    return Survey(index, *kept, split.labels[index], np.concatenate(colors))


@torch.inference_mode()
def tokenize(split: ImageSplit, index: np.ndarray, tokenizer: Tokenizer, start: int) -> Batch:
    """The numbered images as one batch."""
    images = split.read(index)
    features = tokenizer.features(to_float(images, tokenizer.device))
    codes, placed = tokenizer.codebook.assign(features), tokenizer.codebook.in_code_space(features)
    cut = patches(images, tokenizer.grid, tokenizer.num_patches)
    return Batch(start, cut, codes.cpu().numpy(), placed.cpu().numpy())
