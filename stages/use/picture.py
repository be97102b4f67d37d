"""Pictures of many small images: rows and columns with labels, each image enlarged by a whole number."""

import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE_PX, LEAST_PX, WIDE_PX = 160, 72, 1400  # of an image at most, at least; of a picture, about
GAP, BLOCK_GAP, MARGIN = 8, 28, 20
TEXT, FAINT, PAPER = (38, 38, 38), (115, 115, 115), (255, 255, 255)
FONT_PX, LINE_PX, LEFT_CHARS = 14, 18, 18


@dataclass(frozen=True)
class Cell:
    """An image uint8 [H, W, 3] and a text below it."""

    image: np.ndarray
    below: str = ""


@dataclass(frozen=True)
class Sheet:
    """Rows of cells; `tops` stand above the columns, `lefts` before the rows.

    A wider gap follows every `block` columns.
    """

    rows: list[list[Cell]]
    tops: list[str]
    lefts: list[str]
    block: int = 0

    @property
    def columns(self) -> int:
        return max(map(len, self.rows))

    @property
    def side(self) -> int:
        """The side of every image in pixels of the picture."""
        px = max(cell.image.shape[1] for row in self.rows for cell in row)
        most = min(SIDE_PX, WIDE_PX // self.columns)
        return px * max(1, -(-LEAST_PX // px), most // px)

    def draw(self) -> Image.Image:
        """The picture."""
        side, font = self.side, ImageFont.load_default(FONT_PX)
        widest = max((font.getlength(line) for text in self.lefts for line in wrapped(text)), default=0)
        left = MARGIN + (round(widest) + GAP if widest else 0)
        top = MARGIN + LINE_PX * max((text.count("\n") + 1 for text in self.tops if text), default=0)
        xs = [left + column * (side + GAP) + self.extra(column) for column in range(self.columns)]
        ys = [top + row * (side + self.below + GAP) for row in range(len(self.rows))]
        canvas = Image.new("RGB", (xs[-1] + side + MARGIN, ys[-1] + side + self.below + MARGIN), PAPER)
        pen = ImageDraw.Draw(canvas)
        for x, text in zip(xs, self.tops, strict=False):
            pen.text((x + side / 2, top - 6), fitted(text, side, font), TEXT, font, anchor="md", align="center")
        for y, text in zip(ys, self.lefts, strict=False):
            lines = "\n".join(wrapped(text))
            pen.text((left - GAP, y + side / 2), lines, TEXT, font, anchor="rm", align="right")
        for y, row in zip(ys, self.rows, strict=True):
            for x, cell in zip(xs, row, strict=False):
                canvas.paste(enlarged(cell.image, side), (x, y))
                pen.text((x + side / 2, y + side + 3), fitted(cell.below, side, font), FAINT, font, anchor="ma")
        return canvas

    @property
    def below(self) -> int:
        """Room for the texts below images."""
        return LINE_PX + 2 if any(cell.below for row in self.rows for cell in row) else 0

    def extra(self, column: int) -> int:
        """The wider gaps left of a column."""
        return column // self.block * BLOCK_GAP if self.block else 0


def enlarged(image: np.ndarray, side: int) -> Image.Image:
    """uint8 [H, W, 3] as a square of `side` pixels, each pixel a square."""
    return Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)


def wrapped(text: str) -> list[str]:
    """A label in short lines, at most four."""
    return textwrap.wrap(text, LEFT_CHARS, max_lines=4, placeholder=" …")


def fitted(text: str, side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text with each line cut to the width of an image."""
    return "\n".join(cut(line, side, font) for line in text.split("\n"))


def cut(line: str, side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a line that is too long is replaced by an ellipsis."""
    if font.getlength(line) <= side:
        return line
    while line and font.getlength(f"{line}…") > side:
        line = line[:-1]
    return f"{line}…"
