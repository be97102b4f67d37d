"""Curves as pictures inside the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stages.report.gather import Series

COLUMNS = 3
COLOURS = {"train": "#2563a8", "val": "#d2691e"}


def data_address(png: bytes) -> str:
    """A PNG as an address that needs no server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def curves(found: dict[str, dict[str, Series]]) -> str:
    """{curve: {"train" or "val": series}} as one PNG, three plots a row; the same numbers give the same bytes."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(found) // COLUMNS))
    figure = Figure(figsize=(10, 2.4 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (name, splits) in zip(axes, found.items(), strict=False):
        draw_curve(axis, name, splits)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return data_address(buffer.getvalue())


def draw_curve(axis: Axes, name: str, splits: dict[str, Series]) -> None:
    """One plot with a legend if it has two curves."""
    for split, (steps, values) in splits.items():
        axis.plot(steps, values, color=COLOURS[split], label=split, linewidth=1.4, marker="." if len(steps) < 3 else "")
    axis.set_title(name, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len(splits) > 1:
        axis.legend(fontsize=8, frameon=False)
