"""Images of a split at a multiple of their size: scenes are rendered again with real detail, others are resized."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.data.reader import ImageSplit, image_facts
from stages.data.scenes.scenes import BATCH_PIXELS, render


def how_enlarged(folder: Path) -> str:
    """Where the larger images of an artifact come from."""
    return "rendered" if image_facts(folder)["source"] == "scenes" else "bicubic"


def read_enlarged(folder: Path, split: ImageSplit, indices: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [B, side, side, 3] of the numbered images, side = scale * img_px; at scale 1 as they are stored."""
    if scale == 1:
        return split.read(indices)
    if how_enlarged(folder) == "rendered":
        return rendered(image_facts(folder), [int(split.keys[index]) for index in indices], scale * split.img_px)
    return bicubic(split.read(indices), scale * split.img_px)


def rendered(facts: dict[str, Any], numbers: list[int], img_px: int) -> np.ndarray:
    """The scenes of these numbers, which are the keys of their images."""
    settings = {key: facts["scenes"][key] for key in ("max_objects", "patterned", "nuisance")}
    size = max(1, BATCH_PIXELS // img_px**2)
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return np.concatenate([render(facts["seed"], part, img_px=img_px, **settings).images for part in parts])


def bicubic(images: np.ndarray, img_px: int) -> np.ndarray:
    """uint8 [B, H, W, 3] -> uint8 [B, img_px, img_px, 3]."""
    resized = [Image.fromarray(image).resize((img_px, img_px), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in resized])
