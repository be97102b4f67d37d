"""Codes to images, with a decoder that may draw at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def paint(decoder: Any, codes: np.ndarray, seed: int) -> np.ndarray:
    """Codes [B, N] -> uint8 [B, H, W, 3], with what the decoder draws at random under `seed`.

    Every batch starts from the same seed, so that the size of batches changes no image.
    """
    import torch

    return decoder.decode(codes, torch.Generator().manual_seed(seed))
