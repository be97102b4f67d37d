"""A stage's events and reports -> artefacts of its Prefect task run: progress, tables, pictures, curves.

Stages append JSON lines to $PIPELINE_EVENTS (stages/core/events.py says which); metrics and plots are those that
dvc.yaml declares. Nothing here can fail a stage: when the server is gone, publishing stops with one warning.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline import server

if TYPE_CHECKING:
    from logging import Logger, LoggerAdapter
    from uuid import UUID

    from pipeline.graph import Node

LOOK_SECS = 1.0
MAX_PICTURE_BYTES = 400_000  # the server refuses events of more than 1 MB


class Watcher:
    """Follows one stage's file of events; used inside the task run that the artefacts belong to."""

    def __init__(self, node: Node, events: Path, log: Logger | LoggerAdapter):
        self.node, self.events, self.log = node, events, log
        self.key = re.sub(r"[^a-z0-9]+", "-", node.name.lower())
        self.read_bytes, self.looked_at, self.alive = 0, -LOOK_SECS, True
        self.progress_id: UUID | None = None

    def look(self) -> None:
        """Publish what is new, at most once in LOOK_SECS."""
        if time.monotonic() - self.looked_at >= LOOK_SECS:
            self.looked_at = time.monotonic()
            self.publish(self.told)

    def told(self) -> None:
        """The newest progress and table, every picture."""
        show = {"progress": self.progress, "table": self.scores, "picture": self.picture}
        newest = {(event["kind"], event.get("png") and event["name"]): event for event in self.new_events()}
        for (kind, _), event in newest.items():
            show[kind](event)

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Whole lines written since the last call."""
        if not self.events.is_file():
            return
        with open(self.events, "rb") as file:
            file.seek(self.read_bytes)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read_bytes += len(whole)
        yield from map(json.loads, whole.splitlines())

    def publish(self, create: Callable[[], None]) -> None:
        """Call `create` if a server is there; the first failure is the last attempt."""
        if not self.alive or not server.answers():
            return
        try:
            create()
        except Exception as error:  # the server's troubles, or a plot of an unknown kind, are not the stage's
            self.alive = False
            self.log.warning("no more artefacts of this stage are shown: %s: %s", type(error).__name__, error)

    def progress(self, event: dict[str, Any]) -> None:
        """A bar, with count, rate and what is left."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent = 100.0 * event["done"] / max(event["total"], 1)
        if self.progress_id is None:
            self.progress_id = cast("UUID", create_progress_artifact(percent, f"{self.key}-progress", describe(event)))
        else:
            update_progress_artifact(self.progress_id, percent, describe(event))

    def scores(self, event: dict[str, Any]) -> None:
        """Scores of a network in training."""
        self.table(f"{self.key}-training", event["values"], f"{self.node.name}: newest scores")

    def table(self, key: str, values: dict[str, Any], title: str) -> None:
        """Two columns: name and value."""
        from prefect.artifacts import create_table_artifact

        create_table_artifact([{"name": name, "value": value} for name, value in values.items()], key, title)

    def picture(self, event: dict[str, Any]) -> None:
        """A PNG; shown inside the page, because a browser reads no files of the server's."""
        from prefect.artifacts import create_markdown_artifact

        png = smaller(base64.b64decode(event["png"]))
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        key, title = f"{self.key}-{slug(event['name'])}", f"{self.node.name}: {event['name']}"
        create_markdown_artifact(f"![{title}]({url})", key, title)

    def metrics(self) -> None:
        """The stage's metrics files as tables."""
        for path in filter(Path.is_file, map(Path, self.node.metrics)):
            self.table(f"{self.key}-metrics", flat(json.loads(path.read_text())), f"{self.node.name}: {path}")

    def curves(self) -> None:
        """The stage's plots as one picture."""
        if tables := read_plots(self.node.plots):
            self.picture({"name": "curves", "png": base64.b64encode(draw_curves(tables)).decode()})


def describe(event: dict[str, Any]) -> str:
    """`decoder kmeans-onestep: 120 of 235 step, 4.1 step/s, 0:28 left`."""
    text = f"{event['name']}: {event['done']:,} of {event['total']:,} {event['unit']}"
    if event["per_sec"] > 0:
        left_secs = round((event["total"] - event["done"]) / event["per_sec"])
        text += f", {event['per_sec']:.3g} {event['unit']}/s, {left_secs // 60}:{left_secs % 60:02d} left"
    return text


def slug(name: str) -> str:
    """Prefect's artefact keys have lower-case letters, digits and dashes; counters are left out, so that a step's
    picture replaces the one before."""
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-") or "picture"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as `a.b: value`; lists (protocols) are left out, as `dvc metrics show` does."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            found[prefix + key] = value
    return found


def smaller(png: bytes) -> bytes:
    """The same picture at half the size until it is small enough to send."""
    from PIL import Image

    while len(png) > MAX_PICTURE_BYTES:
        picture, buffer = Image.open(io.BytesIO(png)), io.BytesIO()
        picture.resize((max(picture.width // 2, 1), max(picture.height // 2, 1))).save(buffer, "PNG")
        png = buffer.getvalue()
    return png


def read_plots(paths: tuple[str, ...]) -> dict[str, list[list[float]]]:
    """Name -> rows of (x, value) of every TSV file at or below the paths, for each of its columns.

    x is the step or, of a file without steps, its first column.
    """
    import csv

    tables: dict[str, list[list[float]]] = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.tsv")) if path.is_dir() else [path]:
            with open(file) as text:
                for row in csv.DictReader(text, delimiter="\t"):
                    x = "step" if "step" in row else next(iter(row))
                    for column in row.keys() - {x, "timestamp"}:
                        name = str(file.relative_to(path).with_suffix("")) if path.is_dir() else f"{file.stem}/{column}"
                        tables.setdefault(name, []).append([float(row[x]), float(row[column])])
    return tables


def draw_curves(tables: dict[str, list[list[float]]]) -> bytes:
    """A PNG of all curves, one small axis each."""
    from matplotlib.figure import Figure

    columns = min(len(tables), 3)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows), layout="constrained", dpi=80)
    for number, (name, points) in enumerate(sorted(tables.items()), 1):
        axis = figure.add_subplot(rows, columns, number)
        axis.plot(*zip(*points, strict=True), marker=".", linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
