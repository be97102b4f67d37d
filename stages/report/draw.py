"""Curves as pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.core.pictures import png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.report.gather import Series

COLUMNS = 3
COLOURS = {"train": "#2563a8", "val": "#d2691e"}
OTHERS = ("#2563a8", "#d2691e", "#2e8b57", "#8b3a8b", "#b8860b", "#5d6675")  # in turn, where several are compared
STYLES = ("-", "--", ":")  # where there are more than colours
Band = tuple[list[float], list[float], list[float]]  # x, mean, deviation


def data_address(png: bytes) -> str:
    """A PNG as an address that needs no server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def curves(found: dict[str, dict[str, Series]]) -> str:
    """{curve: {"train" or "val": series}} as one PNG, three plots a row; the same numbers give the same bytes."""
    figure, axes = panels(len(found), COLUMNS, 2.4)
    for axis, (name, splits) in zip(axes, found.items(), strict=True):
        draw_curve(axis, name, splits)
    return as_address(figure)


def bands(
    found: dict[str, dict[str, Band]], x_title: str, adjust: Callable[[Axes], object], ratios: tuple[str, ...] = ()
) -> str:
    """{plot: {label: band}} as one PNG, two plots a row: means, bars of one deviation; all plots have the same labels.

    `adjust` sees to each x axis; plots named in `ratios` show equal ratios of y at equal distances.
    """
    figure, axes = panels(len(found), 2, 3.0)
    for axis, (name, own) in zip(axes, found.items(), strict=True):
        for place, (label, (x, mean, std)) in enumerate(own.items()):
            colour, line = OTHERS[place % len(OTHERS)], STYLES[place // len(OTHERS) % len(STYLES)]
            axis.errorbar(x, mean, std, color=colour, linestyle=line, label=label, linewidth=1.4, marker=".", capsize=2)
        adjust(axis)
        if name in ratios:
            axis.set_yscale("log")
        axis.set_xlabel(x_title, fontsize=8)
        finish(axis, name)
    names = axes[0].get_legend_handles_labels() if axes else ([], [])
    figure.legend(*names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return as_address(figure)


def panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many plots; the rest of its last row stays empty. `height` of a row is in inches."""
    from matplotlib.figure import Figure

    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(10, height * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, list(axes[:count])


def as_address(figure: Figure) -> str:
    """The figure as a PNG inside an address."""
    return data_address(png_of(figure))


def draw_curve(axis: Axes, name: str, splits: dict[str, Series]) -> None:
    """One plot with a legend if it has two curves."""
    for split, (steps, values) in splits.items():
        axis.plot(steps, values, color=COLOURS[split], label=split, linewidth=1.4, marker="." if len(steps) < 3 else "")
    finish(axis, name)
    if len(splits) > 1:
        axis.legend(fontsize=8, frameon=False)


def finish(axis: Axes, title: str) -> None:
    """What all plots of the page have in common."""
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(which="both", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
