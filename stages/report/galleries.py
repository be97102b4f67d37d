"""Pictures that the reader can filter, slide through and point at: samples, neighbors, decoders, the codebook map."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.report.gather import Evaluation, Metrics, Reports
from stages.report.plots import picture_address
from stages.report.tables import by_protocol
from stages.report.tiles import Tile, address, column, cut, facts_of, img_px_of, reduced, strip

SLIDER_COLUMNS, SLIDER_IMAGES = 8, 16
Evaluations = dict[str, Evaluation]


@dataclass(frozen=True)
class Item:
    """A picture in a gallery: of which generator, and of which class or caption."""

    generator: str
    tile: Tile


@dataclass(frozen=True)
class Gallery:
    """Items that the page filters by generator, and by class or caption; `wide` ones are strips of several samples."""

    key: str
    title: str
    said: str
    items: list[Item]
    wide: bool

    @property
    def generators(self) -> list[str]:
        """All generators shown."""
        return [*dict.fromkeys(item.generator for item in self.items)]

    @property
    def labels(self) -> list[str]:
        """All classes and captions shown."""
        return [*dict.fromkeys(item.tile.label for item in self.items if item.tile.label)]


@dataclass(frozen=True)
class Slider:
    """The same images in several frames: as they are, then through each tokenizer and decoder."""

    key: str
    frames: list[Tile]


@dataclass(frozen=True)
class CodeMap:
    """Where codes lie, and the picture with a row of patches for each."""

    tokenizer: str
    sheet: str
    tile_px: int
    columns: int
    codes: list[dict[str, Any]]


def samples(reports: Reports, evaluations: Evaluations) -> list[Gallery]:
    """Samples by class, or one by one with their captions, then samples above their nearest training images."""
    drawn: dict[bool, list[Item]] = {True: [], False: []}
    near: list[Item] = []
    for name, evaluation in evaluations.items():
        folder = reports.folder("generation", name) / "pictures"
        for generator in evaluation.generators:
            facts = facts_of(folder / f"{generator}.json")
            px = facts.get("img_px", img_px_of(reports))
            of = f"{generator} on {name}" if len(evaluations) > 1 else generator
            by_class = not captioned(facts.get("samples", []))
            drawn[by_class] += sample_items(of, cut(folder / f"samples-{generator}.png", px), facts, by_class)
            near += neighbor_items(of, cut(folder / f"neighbors-{generator}.png", px), facts)
    said = "First seed, not selected."
    below = "Below each sample: the nearest training image by pixels, then by the encoder's features."
    found = [
        Gallery("by-class", "Samples by class", said, drawn[True], True),
        Gallery("by-caption", "Samples by caption", said, drawn[False], False),
        Gallery("neighbors", "Samples and their nearest training images", below, near, False),
    ]
    return [one for one in found if one.items]


def captioned(labels: list[str]) -> bool:
    """Whether each sample has a caption of its own: labels of classes come once for each column."""
    known = [label for label in labels if label]
    return bool(known) and len({*known}) > len(known) / 2


def sample_items(of: str, grid: np.ndarray | None, facts: Metrics, by_class: bool) -> list[Item]:
    """A strip for each row of samples [rows, columns, s, s, 3], or, with captions, an item for each sample."""
    if grid is None:
        return []
    rows, columns = grid.shape[:2]
    labels = facts.get("samples", [""] * (rows * columns))
    if by_class:
        return [Item(of, Tile(strip(grid[row]), labels[row * columns])) for row in range(rows)]
    flat = reduced(grid.reshape(-1, *grid.shape[2:]))
    return [Item(of, Tile(address(image), label)) for image, label in zip(flat, labels, strict=True) if label]


def neighbor_items(of: str, grid: np.ndarray | None, facts: Metrics) -> list[Item]:
    """An item for each column: a sample above its neighbors."""
    if grid is None:
        return []
    labels = facts.get("neighbors", [""] * grid.shape[1])
    return [Item(of, Tile(column(grid[:, place]), labels[place])) for place in range(grid.shape[1])]


def sliders(reports: Reports, evaluations: Evaluations) -> list[Slider]:
    """One per protocol: originals, then the reconstructions of every tokenizer and decoder."""
    groups = by_protocol({name: one.reconstruction for name, one in evaluations.items()}, "reconstruction")
    found = [slider(f"slider-{place}", reports, [*group]) for place, group in enumerate(groups)]
    return [one for one in found if len(one.frames) > 1]


def slider(key: str, reports: Reports, names: list[str]) -> Slider:
    """The frames of evaluations by name."""
    frames: list[Tile] = []
    for name in names:
        path = reports.folder("reconstruction", name) / "pictures" / "reconstructions.png"
        if (grid := cut(path, img_px_of(reports))) is None:
            continue
        frames += [] if frames else [Tile(in_rows(grid[0::2]), "original")]
        frames.append(Tile(in_rows(grid[1::2]), name))
    return Slider(key, frames)


def in_rows(rows: np.ndarray) -> str:
    """The first images of uint8 [rows, columns, s, s, 3] as one picture of SLIDER_COLUMNS per row."""
    images = reduced(rows.reshape(-1, *rows.shape[2:])[:SLIDER_IMAGES])
    columns = min(SLIDER_COLUMNS, len(images))
    whole = images[: len(images) // columns * columns]
    lines = whole.reshape(-1, columns, *whole.shape[1:])
    return address(lines.transpose(0, 2, 1, 3, 4).reshape(-1, columns * whole.shape[2], 3))


def code_maps(reports: Reports) -> list[CodeMap]:
    """A map for every tokenizer whose codes were laid out."""
    found = [code_map(name, reports.folder("code_analysis", name) / "map") for name in reports.metrics("code_analysis")]
    return [one for one in found if one]


def code_map(tokenizer: str, folder: Path) -> CodeMap | None:
    """The map that the code analysis left in a folder."""
    if not (folder / "patches.png").is_file():
        return None
    facts = json.loads((folder / "codes.json").read_text())
    sheet = picture_address(folder / "patches.png")
    return CodeMap(tokenizer, sheet, facts["tile_px"], facts["columns"], facts["codes"])
