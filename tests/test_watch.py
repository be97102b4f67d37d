"""What a stage emits and prints, as it reaches Prefect: throttled, described, small enough, and never fatal to a stage.

Run: uv run pytest tests/test_watch.py
"""

import base64
import io
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline import curves, server, watch
from pipeline.graph import Node, Settings
from pipeline.repro import Child
from pipeline.watch import Watcher

BAR = """
import sys
print("loaded 3 images, 50% of them new", flush=True)
for done in range(201):
    print(f"\\rdecoder: {done // 2:3}%|##  | {done}/200", end="", flush=True, file=sys.stderr)
print("\\nsaved", flush=True)
"""


def test_of_a_bars_refreshes_the_first_and_the_last_are_kept_and_all_other_lines():
    command = [sys.executable, "-c", BAR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = [line for line in Child("decoder", process).lines(every_secs=1) if line]
    assert lines == [
        "loaded 3 images, 50% of them new", "decoder:   0%|##  | 0/200", "decoder: 100%|##  | 200/200", "saved",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("done", "per_sec", "text"),
    [
        (120, 4.1, "decoder: 120 of 1,235 step, 4.1 step/s, 4:32 left"),
        (1235, 4.1, "decoder: 1,235 of 1,235 step, 4.1 step/s, 0:00 left"),
        (0, 0.0, "decoder: 0 of 1,235 step"),
    ],
)
def test_progress_is_described_with_count_rate_and_time_left(done, per_sec, text):
    event = {"name": "decoder", "done": done, "total": 1235, "unit": "step", "per_sec": per_sec}
    assert watch.describe(event) == text


@pytest.fixture
def watcher(tmp_path, monkeypatch):
    """Of a stage with a folder of plots; it believes that a server is there."""
    monkeypatch.setattr(server, "answers", lambda: True)
    node = Node("generator@kmeans-ar", "generator@kmeans-ar", (), "", False, Settings(), (), ("plots",))
    return Watcher(node, tmp_path / "events.jsonl", logging.getLogger("stage"))


def test_events_are_read_once_and_only_when_their_line_is_whole(watcher):
    lines = [json.dumps({"kind": "table", "values": {"loss": n}}) + "\n" for n in range(3)]
    seen = []
    for part in (lines[0] + lines[1][:9], lines[1][9:], "", lines[2]):
        with open(watcher.events, "a") as file:
            file.write(part)
        seen.append([event["values"]["loss"] for event in watcher.new_events()])
    assert seen == [[0], [1], [], [2]]


def test_a_picture_is_halved_until_the_server_takes_it():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)).save(buffer, "PNG")
    small = watch.shrink(buffer.getvalue())
    assert len(small) <= watch.MAX_PICTURE_BYTES < len(buffer.getvalue())
    assert Image.open(io.BytesIO(small)).size == (400, 300)


def test_all_curves_of_a_stage_become_one_picture(watcher, tmp_path, monkeypatch):
    for name in ("loss", "val/loss"):
        path = tmp_path / "plots" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("step\tloss\n5\t1.0\n10\t0.5\n")
    assert curves.read_plots(("plots",)) == {"loss": [[5, 1], [10, 0.5]], "val/loss": [[5, 1], [10, 0.5]]}
    shown = []
    monkeypatch.setattr(watcher, "picture", shown.append)
    watcher.publish(watcher.curves)
    [event] = shown
    width, height = Image.open(io.BytesIO(base64.b64decode(event["png"]))).size
    assert event["name"] == "curves" and width > height


def test_tables_without_steps_are_drawn_over_their_first_column(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.tsv").write_text("noise\tpca\tlda\n0\t0.5\t0.8\n0.25\t0.4\t0.7\n")
    found = curves.read_plots(tuple(str(tmp_path / f"{name}.tsv") for name in ("one", "two")))
    pca, lda = [[0, 0.5], [0.25, 0.4]], [[0, 0.8], [0.25, 0.7]]
    assert found == {"one/pca": pca, "one/lda": lda, "two/pca": pca, "two/lda": lda}


def test_a_server_that_refuses_ends_the_publishing_with_one_warning_and_nothing_else(watcher, caplog):
    def refuse() -> None:
        raise ConnectionError("gone")

    watcher.publish(refuse)
    watcher.publish(refuse)
    assert [record.message for record in caplog.records] == [
        "no more artifacts of this stage are shown: ConnectionError: gone"
    ]
