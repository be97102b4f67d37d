"""Sections of recognition: classes, masks and boxes from the patch features of every network."""

from stages.report.gather import Metrics, Reports
from stages.report.plots import pictures
from stages.report.sections import Section
from stages.report.tables import Row, number, spread, tables

COMPARED = ("network", "grid")  # of the protocol: what the rows of a table differ in
OTHERS = ("images", "protocol", "trained_parameters")


def recognition(reports: Reports) -> list[Section]:
    """A section per task with a row for each network."""
    found = reports.metrics("recognition")
    items = reports.stages["recognition"].items if found else {}
    tasks = dict.fromkeys(items[name]["task"] for name in found)
    return [task_section(reports, task, [name for name in found if items[name]["task"] == task]) for task in tasks]


def task_section(reports: Reports, task: str, names: list[str]) -> Section:
    """All networks on one task, and pictures of what they found."""
    found, items = reports.metrics("recognition"), reports.stages["recognition"].items
    rows = [Row([items[name]["network"]], cells(found[name]), protocol(found[name])) for name in names]
    shown = {
        f"{items[name]['network']}, {task}": path
        for name in names
        for path in sorted((reports.folder("recognition", name) / "pictures").glob("*.png"))
    }
    title = f"Recognition: {task.replace('_', ' ')}"
    return Section("recognition", title, {}, tables(["network"], rows), pictures(shown))


def cells(metrics: Metrics) -> dict[str, str]:
    """All metrics of a network, what bounds them beside, and the weights that were trained."""
    names = [name for name in metrics if name not in OTHERS and not name.endswith("_std")]
    names = [name for name in names if isinstance(metrics[name], int | float)]
    found = {name.replace("_", " "): spread(metrics, name) for name in names}
    return found | {"trained parameters": number(metrics.get("trained_parameters", 0))}


def protocol(metrics: Metrics) -> Metrics:
    """How the metrics were measured, without the network."""
    own = next(iter(metrics.get("protocol", [])), {})
    return {key: value for key, value in own.items() if key not in COMPARED}
