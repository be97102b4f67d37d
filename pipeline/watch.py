"""Publish a stage's events and reports as artifacts of its Prefect task run: progress, tables, pictures, curves.

Stages append JSON lines to $PIPELINE_EVENTS (stages/core/progress.py); metrics and plots are those that dvc.yaml
declares. Nothing here can fail a stage: if the server is gone, publishing ends with one warning.
"""

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from logging import Logger, LoggerAdapter
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from PIL import Image
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from pipeline import server
from pipeline.curves import draw_curves, read_plots
from pipeline.graph import Node
from pipeline.stale import flat

POLL_SECS = 1.0
MAX_PICTURE_BYTES = 400_000  # the server refuses events of more than 1 MB


class Watcher:
    """Follows one stage's file of events; used inside the task run that the artifacts belong to."""

    def __init__(self, node: Node, events: Path, log: Logger | LoggerAdapter):
        self.node, self.events, self.log = node, events, log
        self.key = re.sub(r"[^a-z0-9]+", "-", node.name.lower())
        self.read_bytes, self.polled_at, self.alive = 0, -POLL_SECS, True
        self.progress_id: UUID | None = None

    def poll(self) -> None:
        """Publish what is new, at most once in POLL_SECS."""
        if time.monotonic() - self.polled_at >= POLL_SECS:
            self.polled_at = time.monotonic()
            self.publish(self.newest_events)

    def publish(self, create: Callable[[], None]) -> None:
        """Call `create` if a server answers; after the first failure nothing more is tried."""
        if not self.alive or not server.answers():
            return
        try:
            create()
        except Exception as error:  # a failure of the server, or a plot of an unknown kind, must not fail the stage
            self.alive = False
            self.log.warning("no more artifacts of this stage are shown: %s: %s", type(error).__name__, error)

    def newest_events(self) -> None:
        """The newest progress and table, and every picture."""
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

    def progress(self, event: dict[str, Any]) -> None:
        """A bar, with count, rate and time left."""
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
        create_table_artifact([{"name": name, "value": value} for name, value in values.items()], key, title)

    def picture(self, event: dict[str, Any]) -> None:
        """A PNG, embedded in the page: browsers read no files of the server."""
        png = shrink(base64.b64decode(event["png"]))
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        key, title = f"{self.key}-{slug(event['name'])}", f"{self.node.name}: {event['name']}"
        create_markdown_artifact(f"![{title}]({url})", key, title)

    def metrics(self) -> None:
        """The stage's metrics files as tables, without lists, as `dvc metrics show` prints them."""
        for path in filter(Path.is_file, map(Path, self.node.metrics)):
            values = flat(json.loads(path.read_text()))
            numbers = {name: value for name, value in values.items() if not isinstance(value, list)}
            self.table(f"{self.key}-metrics", numbers, f"{self.node.name}: {path}")

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
    """A key of an artifact: lower-case letters and dashes. Numbers go, so that a step's picture replaces the last."""
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-") or "picture"


def shrink(png: bytes) -> bytes:
    """The same picture, halved until it is small enough to send."""
    while len(png) > MAX_PICTURE_BYTES:
        picture, buffer = Image.open(io.BytesIO(png)), io.BytesIO()
        picture.resize((max(picture.width // 2, 1), max(picture.height // 2, 1))).save(buffer, "PNG")
        png = buffer.getvalue()
    return png
