"""New images from a generator: a labeled picture or a folder of PNG files, and an animation of how they grow."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.progress import bar
from stages.generator.generator import Generator
from stages.use.animation import HOLD_MS, chosen_steps, drawn_steps, frame_ms, gray_codes, painted
from stages.use.drawing import open_generator, save
from stages.use.outputs import save_frames
from stages.use.picture import Cell, Sheet

COLUMNS, BATCH = 8, 64  # images per row of a picture at most; drawn at once
Row = str | None  # a class or a caption


def main(
    generator: Path, decoders: list[Path], rows: list[Row], by_caption: bool, n: int, seed: int,
    settings: dict[str, Any], animate: bool, out: Path, device: str,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Write `out`; what was made, as facts and as lines."""
    network = open_generator(generator, decoders, settings, device)
    wanted = [row for row in rows for _ in range(n)]
    given, sampling = network.asked((None, wanted) if by_caption else (wanted, None), settings)
    steps = draw(network, given, sampling, seed, animate)
    images = network.decoder.decode(steps[-1], torch.Generator().manual_seed(seed))
    lines = [save(out, sheet_of(images, rows, n), file_names(wanted), images)]
    if animate:
        lines.append(save_growing(out.with_suffix(".webp"), network, steps, rows, n, seed))
    facts = {"out": str(out), "generator": str(generator), "given": wanted, "seed": seed}
    return {**facts, "sampling": sampling.model_dump(), "codes": steps[-1].tolist()}, lines


def draw(network: Generator, given: Tensor, sampling: Any, seed: int, every: bool) -> list[np.ndarray]:
    """int64 [B, N] after every step, or the last alone, in batches."""
    parts = []
    with bar("sample", len(given), 0, "images") as progress:
        for start in range(0, len(given), BATCH):
            drawn = drawn_steps(network, given[start : start + BATCH], sampling, seed, start)
            parts.append(drawn if every else drawn[-1:])
            progress.update(len(drawn[-1]))
    return [np.concatenate(step) for step in zip(*parts, strict=True)]


def sheet_of(images: np.ndarray, rows: list[Row], n: int) -> Sheet:
    """A row per class or caption, or several where it has more than COLUMNS images."""
    starts = range(0, n, COLUMNS)
    cells = [[Cell(image) for image in images[row * n :][:n]] for row in range(len(rows))]
    lines = [line[start : start + COLUMNS] for line in cells for start in starts]
    lefts = [label_of(row) if not start else "" for row in rows for start in starts]
    return Sheet(lines, [], lefts)


def label_of(row: Row) -> str:
    """What stands before a row."""
    return "no class" if row is None else row


def file_names(wanted: list[Row]) -> list[str]:
    """000000-three.png and so on."""
    words = [re.sub(r"[^\w-]+", "-", label_of(row)).strip("-")[:40] for row in wanted]
    return [f"{number:06d}-{word}.png" for number, word in enumerate(words)]


def save_growing(out: Path, network: Generator, steps: list[np.ndarray], rows: list[Row], n: int, seed: int) -> str:
    """Write the animation; what to say of it."""
    chosen, filler = chosen_steps(steps, network.network.num_codes), gray_codes(network)
    frames = []
    with bar("animate", len(chosen), 0, "frames") as progress:
        for codes in chosen:
            frames.append(sheet_of(painted(network, codes, filler, seed), rows, n).draw())
            progress.update()
    save_frames(out, frames, frame_ms(len(frames)), HOLD_MS)
    return f"{out}: {len(frames)} frames of {len(steps)} steps"
