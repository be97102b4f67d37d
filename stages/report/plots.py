"""Pictures inside the page: files, training curves, metrics with error bars, images of decoders side by side."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from stages.core.results import PAPER, png_of
from stages.report.gather import Metrics, Series
from stages.report.tables import protocol_of

COLUMNS = 3
MAX_EXACT_BYTES = 500_000  # of a file that is shown as it is
COLORS = {"train": "#2563a8", "val": "#d2691e"}
CYCLE = ("#2563a8", "#d2691e", "#2e8b57", "#8b3a8b", "#b8860b", "#5d6675")  # of the lines of a plot
STYLES = ("-", "--", ":")  # where there are more lines than colors
Band = tuple[list[float], list[float], list[float]]  # x, mean, deviation


@dataclass(frozen=True)
class Picture:
    """A picture as a data: address, with its caption."""

    source: str
    caption: str
    plot: bool = False  # lines on white, which the dark page inverts


def pictures(found: dict[str, Path], plot: bool = False) -> list[Picture]:
    """The files that exist, by caption; `plot`: lines or dots on white."""
    return [Picture(picture_address(path), caption, plot) for caption, path in found.items() if path.is_file()]


def picture_address(path: Path) -> str:
    """A file's picture as an address, a large one with the small losses of WebP."""
    if path.stat().st_size <= MAX_EXACT_BYTES:
        return data_address(path.read_bytes())
    content = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(content, format="WEBP", quality=85)
    return data_address(content.getvalue(), "webp")


def data_address(content: bytes, kind: str = "png") -> str:
    """A picture as an address that needs no server."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def curves(found: dict[str, dict[str, Series]]) -> str:
    """{curve: {"train" or "val": series}} as one PNG, three plots per row; the same numbers give the same bytes."""
    figure, axes = panels(len(found), COLUMNS, 2.4)
    for axis, (name, splits) in zip(axes, found.items(), strict=True):
        draw_curve(axis, name, splits)
    return data_address(png_of(figure))


def bands(
    found: dict[str, dict[str, Band]],
    x_title: str,
    adjust: Callable[[Axes], object],
    log_scaled: tuple[str, ...] = (),
    joined: bool = True,
) -> str:
    """{plot: {label: band}} as one PNG, two plots per row: means with bars of one deviation, the same labels in all.

    `adjust` changes each x axis; the plots named in `log_scaled` have a logarithmic y axis. Points are joined by lines,
    unless what stands on the x axis has no order.
    """
    figure, axes = panels(len(found), 2, 3.0)
    for axis, (name, lines) in zip(axes, found.items(), strict=True):
        for place, (label, (x, mean, std)) in enumerate(lines.items()):
            color, style = CYCLE[place % len(CYCLE)], STYLES[place // len(CYCLE) % len(STYLES)] if joined else "none"
            look: dict[str, Any] = {"color": color, "linestyle": style, "marker": ".", "capsize": 2, "linewidth": 1.4}
            axis.errorbar(x, mean, std, label=label, **look)
        adjust(axis)
        if name in log_scaled:
            axis.set_yscale("log")
        axis.set_xlabel(x_title, fontsize=8)
        finish(axis, name)
    names = axes[0].get_legend_handles_labels() if axes else ([], [])
    figure.legend(*names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return data_address(png_of(figure))


def panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` plots; the rest of its last row stays empty. `height` of a row is in inches."""
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(10, height * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, list(axes[:count])


def draw_curve(axis: Axes, name: str, splits: dict[str, Series]) -> None:
    """One plot with a legend if it has two curves."""
    for split, (steps, values) in splits.items():
        axis.plot(steps, values, color=COLORS[split], label=split, linewidth=1.4, marker="." if len(steps) < 3 else "")
    finish(axis, name)
    if len(splits) > 1:
        axis.legend(fontsize=8, frameon=False)


def finish(axis: Axes, title: str) -> None:
    """Title, ticks and frame of every plot."""
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    axis.tick_params(which="both", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def log2_ticks(axis: Axes) -> None:
    """A logarithmic x axis with plain numbers."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def side_by_side(group: dict[str, Metrics], files: dict[str, Path]) -> list[Picture]:
    """The columns of several steps.png in one picture: originals, then each decoder at its own number of steps.

    `group`: decoding_steps of one protocol. Empty for a single decoder, or if the pictures differ in height.
    """
    there = {name: metrics for name, metrics in group.items() if files[name].is_file()}
    columns: dict[str, np.ndarray] = {}
    for name, metrics in there.items():
        found = columns_of(files[name], protocol_of(metrics, "steps.png"))
        steps = metrics["decoder"].get("steps")
        columns.setdefault("original", found["original"])
        columns[name if steps is None else f"{name} ({steps})"] = found["once" if steps is None else f"steps_{steps}"]
    if len(there) < 2 or len({len(column) for column in columns.values()}) > 1:
        return []
    content = io.BytesIO()
    Image.fromarray(np.concatenate([*columns.values()], 1)).save(content, format="PNG")
    caption = f"The same images through every decoder at its own number of steps: {', '.join(columns)}"
    return [Picture(data_address(content.getvalue()), caption)]


def columns_of(path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """{name: uint8 [height, pitch, 3]}, each column of a picture with the gap to its right."""
    with Image.open(path) as file:
        picture = np.asarray(file.convert("RGB"))
    pitch, names = facts["pitch_px"], facts["columns"]
    missing = len(names) * pitch - picture.shape[1]
    whole = np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=PAPER)
    return dict(zip(names, np.split(whole, len(names), 1), strict=True))
