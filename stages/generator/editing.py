"""Which codes of an image are drawn anew: those under a mask of its pixels, those outside of it, or a random share.

A kind of generator that can draw some codes around others defines

    FILLS = "any" | "end"       # at any positions | only after the known codes, in raster order
    fill(model, given, known_BN, sampling, seed, first=0) -> int64 [B, N]    # known_BN: `num_codes` where unknown

Every code whose patch overlaps the masked pixels is drawn anew; all others stay as they are (MAGE's rule). The masked
pixels are hidden from the tokenizer, which may look further than a patch.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from stages.core import UserError
from stages.core.distributed import seed_of
from stages.data.decode import Size, to_square
from stages.data.squares import Square, opened_image

HIDDEN = 128  # gray level of hidden pixels where no pixel of the image is known; from here on a mask's are white


def masks_of(mask: Any, sizes: list[Size], square: Square) -> np.ndarray:
    """Masks of images of these sizes, cropped and resized with them: bool [B, img_px, img_px].

    `mask` is bool [H, W] or [B, H, W], a PIL image or the path of one, in which white is True: what is drawn anew.
    `UserError` for other masks, and for one that marks nothing of an image.
    """
    if isinstance(mask, str | Path | Image.Image):
        mask = np.asarray(opened_image(mask, square.background, None).convert("L")) >= HIDDEN
    found = np.asarray(mask)
    expected = f"expected bool [H, W] or [{len(sizes)}, H, W], True where pixels are drawn anew"
    if found.dtype != bool or found.shape[:-2] not in ((), (len(sizes),)):
        raise UserError(f"mask: {found.dtype} {list(found.shape)}: {expected}")
    if other := [size for size in sizes if size != (found.shape[-1], found.shape[-2])]:
        raise UserError(f"mask: {list(found.shape)}: expected the {other[0][1]} x {other[0][0]} pixels of its image")
    rows = np.broadcast_to(found, (len(sizes), *found.shape[-2:]))
    masks = np.array([squared_mask(row, square) for row in rows]).reshape(-1, square.img_px, square.img_px)
    if empty := np.flatnonzero(~masks.any((1, 2))).tolist():
        raise UserError(f"mask: marks no pixel of image {empty[0]}: expected True where pixels are drawn anew")
    return masks


def squared_mask(mask: np.ndarray, square: Square) -> np.ndarray:
    """bool [H, W] -> bool [img_px, img_px], as its image is cropped, to nearest pixels."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(to_square(image, square.img_px, square.crop, 0, nearest=True)) > 0


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
