"""gallery.png: patches that got the same code, with their surroundings, for the most used codes and some others."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.core.distributed import seed_of
from stages.core.results import save_png
from stages.data.reader import ImageSplit
from stages.studies.code_survey import Survey
from stages.studies.params import CodeAnalysis, Gallery
from stages.studies.patches import patch_corners, patch_side

MIN_TILE_PX = 64
LABEL_PX, GAP_PX, ROW_GAP_PX = 92, 3, 8
BACKGROUND, TEXT, FRAME = (255, 255, 255), (40, 48, 60), (230, 60, 30)


def save_gallery(
    path: Path, split: ImageSplit, train: Survey, table: np.ndarray, grid: int, params: CodeAnalysis
) -> None:  # fmt: skip
    """One row per code, the most used first: its mean patch, then framed patches of train images that have the code.

    `table`, uint8 [K, p, p, 3], holds the mean patches of the `train` survey.
    """
    counts, gallery = np.bincount(train.codes.ravel(), minlength=len(table)), params.gallery
    codes = shown_codes(counts, gallery)
    side = table.shape[1] * (1 + 2 * gallery.context)
    tile_px = side * max(1, -(-MIN_TILE_PX // side))
    width = LABEL_PX + (gallery.patches + 1) * (tile_px + GAP_PX) + ROW_GAP_PX
    canvas = Image.new("RGB", (width, len(codes) * (tile_px + ROW_GAP_PX)), BACKGROUND)
    for row, code in enumerate(codes):
        uses = choose_uses(train.codes, int(code), gallery.patches, params.seed)
        tiles = crops(split.read(train.index[uses[:, 0]]), uses[:, 1], grid, gallery.context)
        top = row * (tile_px + ROW_GAP_PX)
        write_label(canvas, top + tile_px // 2, int(code), counts[code] / counts.sum())
        pictures = [framed(table[code], tile_px, 0), *(framed(one, tile_px, gallery.context) for one in tiles)]
        for column, picture in enumerate(pictures):
            left = LABEL_PX + column * (tile_px + GAP_PX) + (ROW_GAP_PX if column else 0)
            canvas.paste(picture, (left, top))
    save_png(path, np.asarray(canvas))


def shown_codes(counts: np.ndarray, params: Gallery) -> np.ndarray:
    """int64: the most used codes, then `params.others` codes at even distances down to the least used."""
    order = most_used(counts, len(counts))
    top, rest = order[: params.most_used], order[params.most_used :]
    if len(rest) <= params.others:
        return order
    ranks = np.linspace(0, len(rest) - 1, params.others + 1).round().astype(np.int64)
    return np.concatenate([top, rest[ranks[1:]]])


def most_used(counts: np.ndarray, wanted: int) -> np.ndarray:
    """int64: up to `wanted` codes that occur, the most used first; of equally used codes the lower one."""
    order = np.argsort(-counts, kind="stable")[:wanted]
    return order[counts[order] > 0]


def choose_uses(codes: np.ndarray, code: int, wanted: int, seed: int) -> np.ndarray:
    """int64 [U, 2]: (image, position) of up to `wanted` uses of a code in codes [M, N]; seeded, without repetition."""
    uses = np.argwhere(codes == code)
    rng = np.random.default_rng(seed_of("anatomy", "gallery", seed, code))
    return uses[np.sort(rng.choice(len(uses), min(wanted, len(uses)), replace=False))]


def crops(images: np.ndarray, positions: np.ndarray, grid: int, context: int) -> np.ndarray:
    """uint8 [U, H, W, 3] and positions [U] -> uint8 [U, s, s, 3]: each patch with `context` patches around it.

    Beyond the image's edge its last pixels are repeated.
    """
    patch_px, corners = patch_side(images.shape[1], grid), patch_corners(images.shape[1], grid)
    border = context * patch_px
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), mode="edge")
    rows, columns = corners[positions % grid**2 // grid], corners[positions % grid]
    window = np.arange(patch_px + 2 * border)
    return padded[np.arange(len(images))[:, None, None], rows[:, None, None] + window[:, None],
                  columns[:, None, None] + window]  # fmt: skip


def framed(tile: np.ndarray, side_px: int, context: int) -> Image.Image:
    """uint8 [s, s, 3] enlarged to `side_px`, with a line around the patch in its middle."""
    picture = Image.fromarray(tile).resize((side_px, side_px), Image.Resampling.NEAREST)
    border = max(0, side_px * context // (1 + 2 * context) - 1)
    ImageDraw.Draw(picture).rectangle((border, border, side_px - 1 - border, side_px - 1 - border), outline=FRAME)
    return picture


def write_label(canvas: Image.Image, middle_px: int, code: int, share: float) -> None:
    """Write the code's number and its share of all positions left of its row."""
    text = f"{code}\n{share:.1%}"
    font = ImageFont.load_default(15)
    ImageDraw.Draw(canvas).text((LABEL_PX - 14, middle_px), text, TEXT, font, anchor="rm", align="right")
