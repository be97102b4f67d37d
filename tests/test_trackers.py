"""Curves in TensorBoard, Weights & Biases and MLflow (`machine.tracker`), read back from what these wrote.

Run: uv run pytest tests/test_trackers.py        (with `uv sync --group wandb --group mlflow`: all three)
"""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import toy as toys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stages.core import UserError
from stages.core.params import Machine, load
from stages.core.results import RUNS, Curves

WORK = Path("scratch/data-generator-kmeans-ar/0123456789abcdef")


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value), …]} of the event files in a folder."""
    read = EventAccumulator(str(folder)).Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def draw(tracker: str) -> None:
    """A training that is interrupted after a step, and the one that goes on from its history and logs a step twice."""
    for rows in ([], [(5, {"loss": 2.0})]):
        curves = Curves()
        curves.rows = rows
        curves.follow(tracker, WORK)
        curves.log(10, loss=1.0, **{"val/psnr_db": 0.5})
        curves.log(10, late=3.0)
        curves.write(Path("out"), images="0123456789ab")


def test_tensorboard_has_the_history_of_a_resumed_training_once():
    draw("tensorboard")
    found = events(RUNS / "tensorboard" / WORK.parent.name / WORK.name)
    assert found == {"loss": [(5, 2.0), (10, 1.0)], "val/psnr_db": [(10, 0.5)], "late": [(10, 3.0)]}


def test_wandb_offline_has_a_run_with_its_whole_history_for_each_start(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    draw("wandb")
    wandb.teardown()  # as at the end of a process, which waits for the files
    started, resumed = sorted(RUNS.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert losses(started) == [(10, 1.0)] and losses(resumed) == [(5, 2.0), (10, 1.0)]


def losses(path: Path) -> list[tuple[int, float]]:
    """[(step, loss), …] of a file of wandb's of one block: a head of 7 bytes, and one before each record."""
    content, start, rows = path.read_bytes(), 7, []
    parse = import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    while start < len(content):
        size = int.from_bytes(content[start + 4 : start + 6], "little")
        items = parse(content[start + 7 : start + 7 + size]).history.item
        row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items}
        rows += [(row["step"], row["loss"])] if "loss" in row else []
        start += 7 + size
    return rows


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_mlflow_has_the_curves_by_step():
    mlflow = pytest.importorskip("mlflow")
    draw("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{RUNS}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "semtok"]
    newest = client.search_runs([experiment.experiment_id])[0].info
    loss = client.get_metric_history(newest.run_id, "loss")
    assert [(one.step, one.value) for one in loss] == [(5, 2.0), (10, 1.0)]
    assert newest.status == "FINISHED" and newest.run_name == WORK.parent.name


def test_a_tracker_changes_no_byte_of_a_training_and_shows_its_curves(toy, tmp_path):
    made = {}
    for tracker in ("none", "tensorboard"):
        root = shutil.copytree(toy, tmp_path / tracker, ignore=shutil.ignore_patterns("scratch"))
        toys.write_params(root, {"machine": {"tracker": tracker}})
        toys.run("generator@kmeans-ar", root)
        made[tracker] = toys.hashes(root / "data/generator") | toys.hashes(root / "reports/generator")
    assert made["none"] == made["tensorboard"]
    [folder] = (tmp_path / "tensorboard" / RUNS).glob("tensorboard/data-generator-kmeans-ar/*")
    assert [step for step, _ in events(folder)["loss"]] == [4, 8, 12]


def test_a_tracker_whose_package_is_missing_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.core.params.find_spec", lambda name: None)
    toys.write_params(tmp_path, {"machine": {"tracker": "wandb"}})
    with pytest.raises(
        UserError, match="machine.tracker: 'wandb': its package is not installed: uv sync --group wandb"
    ):
        load("machine", Machine)


def test_a_tracker_that_refuses_ends_the_training_before_its_first_step(monkeypatch):
    def refuse(task: str, key: str) -> None:
        raise OSError("no login")

    monkeypatch.setattr("stages.core.results.TRACKERS", {"tensorboard": refuse})
    with pytest.raises(UserError, match="machine.tracker = 'tensorboard': OSError: no login"):
        Curves().follow("tensorboard", WORK)


def test_a_tracker_that_fails_later_ends_no_training(capsys):
    def fail(step, scalars):
        raise ConnectionError("the server went away")

    curves = Curves()
    curves.send = curves.close = fail
    for step in (1, 2):
        curves.log(step, loss=1.0)
    curves.write(Path("out"), images="0123456789ab")
    assert [step for step, _ in curves.rows] == [1, 2]
    assert capsys.readouterr().out.count("no more curves are sent to it") == 1
