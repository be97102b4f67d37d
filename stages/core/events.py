"""What a stage tells whoever watches it: progress, tables and pictures, as JSON lines in the file $PIPELINE_EVENTS.

A stage knows nothing of its watcher; without the variable nothing is written. Kinds and their fields:

    progress  name, done, total, unit, per_sec      at most once a second
    table     values {name: number}                 scores of a network in training
    picture   name, png                             the file's bytes in base64
"""

import base64
import json
import os

from stages.core import distributed


def progress(name: str, done: int, total: int, unit: str, per_sec: float) -> None:
    """How far the loop `name` is; `per_sec` counts what this process did, not what it resumed from."""
    _emit("progress", name=name, done=done, total=total, unit=unit, per_sec=round(per_sec, 4))


def table(values: dict[str, float]) -> None:
    """The newest scores."""
    _emit("table", values=values)


def picture(name: str, png: bytes) -> None:
    """A picture that was just written."""
    _emit("picture", name=name, png=base64.b64encode(png).decode())


def _emit(kind: str, **fields: object) -> None:
    target = os.environ.get("PIPELINE_EVENTS")
    if target and distributed.rank() == 0:
        with open(target, "a") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")
