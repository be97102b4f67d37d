"""Sections of the study `sampling`: scores over grids of sampling settings, and edited images."""

import json
from typing import Any

from matplotlib.axes import Axes

from stages.report import plots
from stages.report.gather import Metrics, Reports
from stages.report.plots import Picture, pictures
from stages.report.sections import DISTANCES, Section
from stages.report.tables import Row, protocol_of, spread, tables

# Metrics with a plot each, as far as they were measured, and whether less is better.
PLOTTED = {"gfid[classifier]": True, "class_accuracy": False, "precision[embedded]": False, "recall[embedded]": False}
LINES = 18  # of a plot; beyond, colors and styles repeat


def sampling(reports: Reports) -> Section | None:
    """A table and plots for every grid of every generator; the settings in params.yaml are marked."""
    found = {name: one for name, one in reports.metrics("sampling").items() if "grids" in one}
    if not reports.metrics("sampling"):
        return None
    rows = [row for name, metrics in found.items() for row in own_rows(name, metrics)]
    details = [
        (f"{name}: {grid['name']}", table)
        for name, metrics in found.items()
        for grid in metrics["grids"]
        for table in tables([*grid["points"][0]["changes"], "passes"], point_rows(grid, metrics))
    ]
    shown = [plot(name, metrics, grid) for name, metrics in found.items() for grid in metrics["grids"]]
    heads = ["tokenizer-decoder-generator", "samples"]
    return Section("sampling", "Sampling settings", {"measured": list(found)}, tables(heads, rows), shown, details)


def own_rows(name: str, metrics: Metrics) -> list[Row]:
    """The samples at the generator's own settings, and real val images."""
    groups = {"settings in params.yaml": ("own", "samples"), "real val images": ("val", "val")}
    return [
        Row([name, title], cells(metrics[group]), protocol_of(metrics, of)) for title, (group, of) in groups.items()
    ]


def point_rows(grid: Metrics, metrics: Metrics) -> list[Row]:
    """A row for each combination, * where it is the generator's own."""
    return [
        Row(
            [*map(shown_value, point["changes"].values()), f"{point['passes']:g}" + " *" * is_own(point, metrics)],
            cells(point["metrics"]),
            protocol_of(metrics, point["protocol"]),
        )
        for point in grid["points"]
    ]


def cells(metrics: Metrics) -> dict[str, str]:
    """Class accuracy, and all distances to real images."""
    names = [name for name in metrics if name.startswith(DISTANCES) and not name.endswith("_std")]
    return {"class accuracy": spread(metrics, "class_accuracy")} | {name: spread(metrics, name) for name in names}


def is_own(point: Metrics, metrics: Metrics) -> bool:
    """Whether a point has the settings in params.yaml."""
    own = json.loads(metrics["generator"]["settings"])
    return all(own.get(name) == value for name, value in point["changes"].items())


def shown_value(value: Any) -> str:
    """A value of a setting in a table or a plot; of a schedule, its name before its numbers."""
    if isinstance(value, dict):
        return " ".join(map(str, sorted(value.values(), key=lambda one: not isinstance(one, str))))
    return f"{value}"


def plot(name: str, metrics: Metrics, grid: Metrics) -> Picture:
    """Metrics against the first setting, a line for each value of the second; the best over all others."""
    settings, points = [*grid["points"][0]["changes"]], grid["points"]
    ticks = [*dict.fromkeys(shown_value(point["changes"][settings[0]]) for point in points)]
    known = [metric for metric in PLOTTED if all(metric in point["metrics"] for point in points)]
    lines = {metric: bands_of(metric, points, settings, ticks) for metric in known}
    lines = {metric: dict([*found.items()][:LINES]) for metric, found in lines.items()}
    ordered = all(isinstance(point["changes"][settings[0]], int | float) for point in points)
    shown = plots.bands(lines, settings[0], lambda axis: name_ticks(axis, ticks), joined=ordered)
    return Picture(shown, caption(name, grid, settings), plot=True)


def bands_of(metric: str, points: list[Metrics], settings: list[str], ticks: list[str]) -> dict[str, plots.Band]:
    """{line: its places on the x axis, means and deviations}."""
    best: dict[str, dict[int, Metrics]] = {}
    for point in points:
        first, second = (shown_value(point["changes"][one]) if one else "" for one in (*settings, "")[:2])
        line = best.setdefault(f"{settings[1]} {second}" if second else "", {})
        there, own = line.get(ticks.index(first)), point["metrics"]
        if there is None or (own[metric] < there[metric]) == PLOTTED[metric]:
            line[ticks.index(first)] = own
    return {
        label: ([*line], [one[metric] for one in line.values()], [one.get(f"{metric}_std", 0) for one in line.values()])
        for label, line in best.items()
    }


def name_ticks(axis: Axes, ticks: list[str]) -> None:
    """The values of a setting at equal distances."""
    long: dict[str, Any] = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if max(map(len, ticks)) > 8 else {}
    )
    axis.set_xticks(range(len(ticks)), ticks, **long)


def caption(name: str, grid: Metrics, settings: list[str]) -> str:
    """What the plots of one grid show."""
    said = f"{name}: {grid['name']}, by {settings[0].replace('_', ' ')}"
    said += f", a line per {settings[1].replace('_', ' ')}" if len(settings) > 1 else ""
    others = " and ".join(one.replace("_", " ") for one in settings[2:])
    return said + (f"; each point at the best {others} for that metric" if others else "")


def editing(reports: Reports) -> Section | None:
    """Val images of which generators drew parts anew."""
    found = {name: one for name, one in reports.metrics("sampling").items() if "edited" in one}
    captions = {name: f"{name}: {', '.join(one['edited'][0]['columns'])}" for name, one in found.items()}
    folders = {name: reports.folder("sampling", name) / "pictures" for name in found}
    shown = pictures({captions[name]: folder / "edited.png" for name, folder in folders.items()})
    return Section("editing", "Editing", {}, [], shown) if shown else None
