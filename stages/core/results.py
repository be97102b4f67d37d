"""What a stage leaves in reports/: metrics.json, tables for `dvc plots`, training curves, pictures.

Curves also go to the tracker of `machine.tracker` while a training runs, for TensorBoard, Weights & Biases or MLflow.
"""

import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from dvclive import Live
from PIL import Image

from stages.core import UserError
from stages.core.artifact import write_atomically
from stages.core.distributed import rank
from stages.core.progress import emit_picture, emit_table

GAP_PX = 1
PAPER = 255
RUNS, PROJECT = Path("runs"), "semtok"  # of trackers


def rounded(metrics: Any) -> Any:
    """The same tree with every float at six significant digits, because further digits differ between machines."""
    if isinstance(metrics, float):
        return float(f"{metrics:.6g}")
    if isinstance(metrics, dict):
        return {key: rounded(value) for key, value in metrics.items()}
    return [rounded(value) for value in metrics] if isinstance(metrics, list | tuple) else metrics


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write `folder`/metrics.json; a NaN or infinity is a ValueError, since JSON has none.

    Metrics of images say which, for the report never mixes data sets: `"images": artifact.images_digest(…)`.
    `dvc metrics show` prints numbers and strings and leaves lists out: protocols are lists for that reason.
    """
    text = json.dumps(rounded(metrics), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "metrics.json", (text + "\n").encode())


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Write a TSV file with one line of names; numbers have six significant digits."""
    lines = [head, *([f"{value:.6g}" for value in row] for row in rows)]
    write_atomically(path, "".join("\t".join(line) + "\n" for line in lines).encode())


class Curves:
    """A history of scalars that a checkpoint can carry; `write` gives all of it to DVCLive at once.

    DVC deletes a stage's outputs before it runs the command, so a resumed run has to write its whole history again.
    Files: <out>/plots/metrics/<name>.tsv, one row per logged step.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.send: Callable[[int, dict[str, float]], None] = lambda step, scalars: None
        self.close: Callable[[], None] = lambda: None

    def follow(self, tracker: str, work: Path) -> None:
        """Send the history, and what is logged from now on, to a tracker as the run of the scratch folder `work`.

        The first process alone sends. `UserError` if the tracker refuses, before the training begins.
        """
        if tracker == "none" or rank() > 0:
            return
        try:
            self.send, self.close = TRACKERS[tracker](work.parent.name, work.name)
            for step, scalars in self.rows:
                self.send(step, scalars)
        except Exception as error:  # of the tracker's own network, login or files
            why = " ".join(str(error).split())
            raise UserError(f"params.yaml: machine.tracker = {tracker!r}: {type(error).__name__}: {why}") from error

    def log(self, step: int, **scalars: float) -> None:
        """Add scalars of a step to the history and emit them; a step may be logged in several calls."""
        self.rows.append((step, scalars))
        emit_table({"step": step, **scalars})
        try:
            self.send(step, scalars)
        except Exception as error:  # such as a server that went away: no reason to end a training
            self.send = lambda step, scalars: None
            print(f"tracker: {type(error).__name__}: {error}: no more curves are sent to it", flush=True)

    def last(self) -> dict[str, float]:
        """The newest value of every name."""
        return {name: value for _, scalars in self.rows for name, value in scalars.items()}

    def write(self, out: Path, images: str, metrics: dict[str, Any] | None = None) -> None:
        """Write the history to the folder `out`, and metrics.json there: `metrics`, or the last values without any.

        `images` is the digest of the images that they were measured on.
        """
        with Live(str(out), save_dvc_exp=False, dvcyaml=None, report=None, cache_images=False) as live:
            for step, scalars in self.rows:
                live.step = step
                for name, value in scalars.items():
                    live.log_metric(name, value)
            live.summary["images"] = images
            live.make_summary()
        with suppress(Exception):  # a tracker's own, when all is written here
            self.close()
        if metrics is not None:
            write_metrics(out, {"images": images, **metrics})


Tracker = tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]  # sends scalars of a step; ends the run


def tensorboard(task: str, key: str) -> Tracker:
    """Event files in runs/tensorboard/<task>/<key>; those of an interrupted training are replaced by its history."""
    folder = RUNS / "tensorboard" / task / key
    shutil.rmtree(folder, ignore_errors=True)
    writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def send(step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return send, writer.close


def wandb(task: str, key: str) -> Tracker:
    """A new run of the project, also for a training that goes on; its axis is `step`, since steps may come twice."""
    RUNS.mkdir(exist_ok=True)
    run = import_module("wandb").init(project=PROJECT, name=task, group=key, dir=RUNS)
    run.define_metric("*", step_metric="step")
    return lambda step, scalars: run.log({"step": step, **scalars}), run.finish


def mlflow(task: str, key: str) -> Tracker:
    """A new run in $MLFLOW_TRACKING_URI, by default runs/mlflow.db. It holds no infinite values: they are left out."""
    mlflow = import_module("mlflow")
    RUNS.mkdir(exist_ok=True)
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{RUNS}/mlflow.db"))
    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=task, tags={"scratch": key})

    def send(step: int, scalars: dict[str, float]) -> None:
        mlflow.log_metrics({name: value for name, value in scalars.items() if math.isfinite(value)}, step)

    return send, mlflow.end_run


TRACKERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}


def grid(images: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """uint8 [M, h, w, 3] -> uint8 [height, width, 3]: `columns` pictures per row, each pixel `scale` px wide and high.

    White lines of one (unscaled) pixel separate the pictures; an incomplete last row ends in white.
    """
    rows, (height, width) = -(-len(images) // columns), images.shape[1:3]
    canvas = np.full((rows, height + GAP_PX, columns, width + GAP_PX, 3), PAPER, np.uint8)
    for place, image in enumerate(images):
        canvas[place // columns, :height, place % columns, :width] = image
    flat = canvas.reshape(rows * (height + GAP_PX), columns * (width + GAP_PX), 3)[:-GAP_PX, :-GAP_PX]
    return flat.repeat(scale, 0).repeat(scale, 1)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [height, width, 3] as PNG without a timestamp; the folder is made."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    save_picture(path, content.getvalue())


def save_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib.figure.Figure as PNG; the same figure gives the same bytes; the folder is made."""
    save_picture(path, png_of(figure))


def png_of(figure: Any) -> bytes:
    """A matplotlib figure as PNG, without the version of matplotlib."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def save_picture(path: Path, png: bytes) -> None:
    """Write a PNG atomically and emit it as an event; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png)
    emit_picture(path.stem, png)


def enlarge(img_px: int) -> int:
    """The `scale` at which pictures of `img_px` are at least 64 px wide."""
    return max(1, 64 // img_px)
