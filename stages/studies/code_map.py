"""map/: where the most used codes lie in the t-SNE, with patches of each, for the page's map of the codebook."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.core.artifact import write_atomically
from stages.core.results import rounded, save_png
from stages.data.reader import ImageSplit
from stages.studies.code_gallery import choose_uses, crops
from stages.studies.code_survey import Survey
from stages.studies.params import CodeAnalysis
from stages.studies.tsne import Layout, majority_class

USES, MAX_TILE_PX = 5, 24  # patches per code; the side of each on the page, where a patch is larger


def save_map(
    folder: Path, split: ImageSplit, train: Survey, table: np.ndarray, grid: int, layout: Layout, params: CodeAnalysis
) -> None:
    """Write codes.json, the facts of each code, and patches.png, a row for each: its mean patch, then train patches.

    `table`, uint8 [K, p, p, 3], holds the mean patches of the `train` survey. Without a t-SNE there are no codes.
    """
    rows = [row_of(split, train, table[code], int(code), grid, params) for code in layout.codes]
    facts = {"tile_px": rows[0].shape[0] if rows else 0, "columns": 1 + USES}
    content = json.dumps(rounded({**facts, "codes": facts_of(train, len(table), layout, split.classes)}), indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "codes.json", (content + "\n").encode())
    if rows:
        save_png(folder / "patches.png", np.concatenate(rows))


def facts_of(train: Survey, num_codes: int, layout: Layout, names: list[str]) -> list[dict[str, Any]]:
    """Per code: its number, its place from 0 to 1, its share of all positions, the class that uses it most."""
    counts = np.bincount(train.codes.ravel(), minlength=num_codes)
    majority, share = majority_class(train.codes, train.labels, num_codes)
    low, high = layout.code_plane.min(0, initial=np.inf), layout.code_plane.max(0, initial=-np.inf)
    places = (layout.code_plane - low) / np.maximum(high - low, 1e-9)
    return [
        {
            "code": code, "x": float(x), "y": float(y), "share": float(counts[code] / counts.sum()),
            "class": names[majority[code]] if majority[code] >= 0 else "", "class_share": float(share[code]),
        }
        for code, (x, y) in zip(layout.codes.tolist(), places, strict=True)
    ]  # fmt: skip


def row_of(
    split: ImageSplit, train: Survey, mean_patch: np.ndarray, code: int, grid: int, params: CodeAnalysis
) -> np.ndarray:
    """uint8 [t, (1 + USES) * t, 3]: the mean patch, then uses with their context; black where there are none."""
    uses, scale = choose_uses(train.codes, code, USES, params.seed), 1 + 2 * params.gallery.context
    found = crops(split.read(train.index[uses[:, 0]]), uses[:, 1], grid, params.gallery.context)
    tiles = [mean_patch.repeat(scale, 0).repeat(scale, 1), *found]
    tiles += [np.zeros_like(tiles[0])] * (1 + USES - len(tiles))
    return np.concatenate([reduced(tile) for tile in tiles], 1)


def reduced(tile: np.ndarray) -> np.ndarray:
    """A tile uint8 [s, s, 3] of at most MAX_TILE_PX."""
    side = min(len(tile), MAX_TILE_PX)
    return np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.BOX)) if side < len(tile) else tile
