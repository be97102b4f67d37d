"""Which codes of an image are drawn anew: those under a mask of its pixels, those outside of it, or a random share.

A kind of generator that can draw some codes around others defines

    FILLS = "any" | "end"       # at any positions | only after the known codes, in raster order
    fill(model, given, known_BN, sampling, seed, first=0) -> int64 [B, N]    # known_BN: `num_codes` where unknown

Every code whose patch overlaps the masked pixels is drawn anew; all others stay as they are (MAGE's rule). The masked
pixels are hidden from the tokenizer, which may look further than a patch.
"""

from types import ModuleType

import numpy as np
import torch
from torch.nn import functional as F

from stages.core import UserError
from stages.core.distributed import seed_of

HIDDEN = 128  # gray level of hidden pixels where no pixel of the image is known


def batch_of(images: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] or [B, H, W, 3] -> [B, H, W, 3]; `UserError` for other arrays."""
    images = np.asarray(images)
    found = images[None] if images.ndim == 3 else images
    if found.ndim != 4 or found.shape[3] != 3 or found.dtype != np.uint8 or not found.size:
        raise UserError(f"images: {images.dtype} {list(images.shape)}: expected uint8 [H, W, 3] or [B, H, W, 3]")
    return found


def masks_of(mask: np.ndarray, images_BHWC: np.ndarray) -> np.ndarray:
    """bool [H, W] or [B, H, W], True where pixels are drawn anew -> [B, H, W]; `UserError` for a mask of nothing."""
    mask, shape = np.asarray(mask), images_BHWC.shape[:3]
    if mask.dtype != bool or mask.shape not in (shape, shape[1:]):
        raise UserError(f"mask: {mask.dtype} {list(mask.shape)}: expected bool {list(shape[1:])} or {list(shape)}")
    found = np.broadcast_to(mask, shape)
    if empty := np.flatnonzero(~found.any((1, 2))).tolist():
        raise UserError(f"mask: marks no pixel of image {empty[0]}: True marks what is drawn anew")
    return found


def check_size(images_BHWC: np.ndarray, img_px: int) -> None:
    """`UserError` for images of another size than the decoder's."""
    if images_BHWC.shape[1:3] != (img_px, img_px):
        raise UserError(f"images: {list(images_BHWC.shape)}: expected {img_px} x {img_px} pixels, as in training")


def overlapped(mask_BHW: np.ndarray, grid: int, codebooks: int) -> np.ndarray:
    """bool [B, H, W] -> bool [B, N], N = codebooks * grid²: the codes of patches that a masked pixel lies in."""
    patches = F.adaptive_max_pool2d(torch.from_numpy(mask_BHW.astype(np.float32)), grid)
    return patches.flatten(1).bool().repeat(1, codebooks).numpy()


def hidden(images_BHWC: np.ndarray, mask_BHW: np.ndarray) -> np.ndarray:
    """The images with the mean color of their known pixels in place of the masked ones."""
    images = images_BHWC.copy()
    for image, mask in zip(images, mask_BHW, strict=True):
        image[mask] = image[~mask].mean(0).round() if not mask.all() else HIDDEN
    return images


def extended(images_BHWC: np.ndarray, sides: dict[str, int], img_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Images on a canvas of `img_px`, and the mask of the pixels added at left, right, top and bottom, in `sides`."""
    (height, width), (left, right, top, bottom) = images_BHWC.shape[1:3], sides.values()
    whole = (height + top + bottom, width + left + right)
    if min(sides.values()) < 0 or not any(sides.values()) or whole != (img_px, img_px):
        asked = ", ".join(f"{side} {pixels}" for side, pixels in sides.items())
        expected = f"expected {img_px} x {img_px} together, and something added"
        raise UserError(f"images of {height} x {width} pixels with {asked}: {expected}")
    mask = np.ones((len(images_BHWC), img_px, img_px), bool)
    mask[:, top : top + height, left : left + width] = False
    return np.pad(images_BHWC, ((0, 0), (top, bottom), (left, right), (0, 0))), mask


def random_codes(count: int, num_patches: int, strength: float, seed: int) -> np.ndarray:
    """bool [count, N]: a share `strength` of each image's codes, at least one, by its number and the seed."""
    if not 0 < strength <= 1:
        raise UserError(f"strength = {strength}: expected a share of the codes, above 0 and at most 1")
    chosen = np.zeros((count, num_patches), bool)
    for number, row in enumerate(chosen):
        order = np.random.default_rng(seed_of("vary", seed, number)).permutation(num_patches)
        row[order[: max(1, round(strength * num_patches))]] = True
    return chosen


def check_fills(kind: ModuleType, name: str) -> None:
    """`UserError` for a kind of generator that always draws all codes."""
    if not hasattr(kind, "FILLS"):
        raise UserError(f"a generator of kind {name} draws whole images only: use one of kind masked")
