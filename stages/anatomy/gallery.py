"""gallery.png: patches that got the same code, in their surroundings, for the most used codes and some others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from stages.core.params import Section

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from stages.anatomy.survey import Survey
    from stages.data.reader import ImageSplit

TILE_PX = 64  # at least, of one picture
LABEL_PX, GAP_PX, ROW_GAP_PX = 92, 3, 8
PAPER, INK, MARK = (255, 255, 255), (40, 48, 60), (230, 60, 30)


class Gallery(Section):
    most_used: int = Field(gt=0)
    others: int = Field(ge=0)
    patches: int = Field(gt=0)
    context: int = Field(ge=0)


def draw_gallery(
    path: Path, split: ImageSplit, seen: Survey, table: np.ndarray, grid: int, params: Gallery, seed: int
) -> None:
    """One row a code, the most used first: its mean patch (`table`, uint8 [K, p, p, 3]), then uses, each framed.

    `seen` are the train images, whose patches `table` is the mean of.
    """
    import numpy as np
    from PIL import Image

    from stages.core.pictures import save_png

    counts = np.bincount(seen.codes.ravel(), minlength=len(table))
    codes = shown_codes(counts, params)
    side = table.shape[1] * (1 + 2 * params.context)
    scale = max(1, -(-TILE_PX // side))
    width = LABEL_PX + (params.patches + 1) * (side * scale + GAP_PX) + ROW_GAP_PX
    canvas = Image.new("RGB", (width, len(codes) * (side * scale + ROW_GAP_PX)), PAPER)
    for row, code in enumerate(codes):
        uses = choose_uses(seen.codes, int(code), params.patches, seed)
        tiles = crops(split.read(seen.index[uses[:, 0]]), uses[:, 1], grid, params.context)
        top = row * (side * scale + ROW_GAP_PX)
        write_label(canvas, top + side * scale // 2, int(code), counts[code] / counts.sum())
        pictures = [framed(table[code], side * scale, 0), *(framed(one, side * scale, params.context) for one in tiles)]
        for column, picture in enumerate(pictures):
            left = LABEL_PX + column * (side * scale + GAP_PX) + (ROW_GAP_PX if column else 0)
            canvas.paste(picture, (left, top))
    save_png(path, np.asarray(canvas))


def shown_codes(counts: np.ndarray, params: Gallery) -> np.ndarray:
    """int64: the most used codes, then as many as asked for at even distances down to the least used."""
    import numpy as np

    order = most_used(counts, len(counts))
    top, rest = order[: params.most_used], order[params.most_used :]
    if len(rest) <= params.others:
        return order
    ranks = np.linspace(0, len(rest) - 1, params.others + 1).round().astype(np.int64)
    return np.concatenate([top, rest[ranks[1:]]])


def most_used(counts: np.ndarray, wanted: int) -> np.ndarray:
    """int64: up to `wanted` codes that occur, the most used first, of equally used ones the lower."""
    import numpy as np

    order = np.argsort(-counts, kind="stable")[:wanted]
    return order[counts[order] > 0]


def choose_uses(codes: np.ndarray, code: int, wanted: int, seed: int) -> np.ndarray:
    """int64 [U, 2]: (image, position) of up to `wanted` uses of a code in codes [M, N]; seeded, without repetition."""
    import numpy as np

    from stages.core.rng import seed_of

    uses = np.argwhere(codes == code)
    rng = np.random.default_rng(seed_of("anatomy", "gallery", seed, code))
    return uses[np.sort(rng.choice(len(uses), min(wanted, len(uses)), replace=False))]


def crops(images: np.ndarray, positions: np.ndarray, grid: int, context: int) -> np.ndarray:
    """uint8 [U, H, W, 3] and positions [U] -> uint8 [U, s, s, 3]: each patch with `context` patches around it.

    Beyond the image's edge its last pixels are repeated.
    """
    import numpy as np

    from stages.core.patches import patch_corners, patch_side

    patch_px, corners = patch_side(images.shape[1], grid), patch_corners(images.shape[1], grid)
    border = context * patch_px
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), mode="edge")
    rows, columns = corners[positions % grid**2 // grid], corners[positions % grid]
    window = np.arange(patch_px + 2 * border)
    return padded[np.arange(len(images))[:, None, None], rows[:, None, None] + window[:, None],
                  columns[:, None, None] + window]  # fmt: skip


def framed(tile: np.ndarray, side_px: int, context: int) -> Image:
    """uint8 [s, s, 3] enlarged to `side_px`, with a line around the patch in its middle."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(tile).resize((side_px, side_px), Image.Resampling.NEAREST)
    border = max(0, side_px * context // (1 + 2 * context) - 1)
    ImageDraw.Draw(picture).rectangle((border, border, side_px - 1 - border, side_px - 1 - border), outline=MARK)
    return picture


def write_label(canvas: Image, middle_px: int, code: int, share: float) -> None:
    """The code's number and its share of all positions, left of its row."""
    from PIL import ImageDraw, ImageFont

    text = f"{code}\n{share:.1%}"
    font = ImageFont.load_default(15)
    ImageDraw.Draw(canvas).text((LABEL_PX - 14, middle_px), text, INK, font, anchor="rm", align="right")
