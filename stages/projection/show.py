"""The toy as a picture: beside the points and the two directions, accuracy under noise. Same numbers, same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.pictures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"pca": "#d2691e", "lda": "#2563a8", "bayes": "#5d6675"}
TITLES = {"pca": "PCA", "lda": "LDA", "bayes": "Bayes limit"}
CLASSES = ("#8fb4d8", "#e0b48f")
SHOWN = 300  # points of a class


def show(path: Path, cases: dict[str, dict[str, Any]]) -> None:
    """One row a case; for its fields see compare.picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(cases)), dpi=110, layout="constrained")
    rows = figure.subplots(len(cases), 2, squeeze=False)
    for (left, right), (name, case) in zip(rows, cases.items(), strict=True):
        draw_points(left, name, case)
        draw_curves(right, case)
    save_figure(path, figure)


def draw_points(axis: Axes, name: str, case: dict[str, Any]) -> None:
    """The classes, and through their middle a line along each direction."""
    for label, colour in enumerate(CLASSES):
        own = case["points"][case["labels"] == label][:SHOWN]
        axis.plot(own[:, 0], own[:, 1], ".", color=colour, markersize=3, label=f"class {label}")
    centre, length = case["points"].mean(0), case["points"].std(0).max() * 2
    for kind, unit in case["axes"].items():
        ends = [centre - length * unit, centre + length * unit]
        axis.plot(*zip(*ends, strict=True), color=COLOURS[kind], label=f"{TITLES[kind]} projects onto")
    axis.set_title(f"{name}: clean points", fontsize=9, loc="left")
    axis.set_aspect("equal", adjustable="datalim")
    finish(axis)


def draw_curves(axis: Axes, case: dict[str, Any]) -> None:
    """Accuracy over the deviation of the noise."""
    for kind, values in case["curves"].items():
        style = "--" if kind == "bayes" else "-"
        axis.plot(case["sigmas"], values, style, color=COLOURS[kind], label=TITLES[kind], linewidth=1.4, marker=".")
    axis.set_ylim(0.45, 1)
    axis.set_title("accuracy by noise sigma", fontsize=9, loc="left")
    finish(axis)


def finish(axis: Axes) -> None:
    """The page's style."""
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
