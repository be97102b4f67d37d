"""Between pictures as people store them (uint8 NHWC) and as networks take them (float NCHW in [-1, 1])."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


def to_float(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    import torch

    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"images: expected uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")
    return images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], rounded to nearest, clipped."""
    import torch

    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
