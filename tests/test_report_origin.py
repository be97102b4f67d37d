"""What a report says of its origin, which is the same to the byte for the same inputs, and of a weak encoder.

Run: uv run pytest tests/test_report_origin.py
"""

import json
import socket
import subprocess

import pytest
import written_reports as written

from stages.report.gather import read_reports
from stages.report.origin import changed, flat, origin
from stages.report.page import write_page
from stages.report.probe import weak_encoder


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """A few reports of a committed folder, whose codebook ran with another value than the committed one."""
    written.leave_plots_undrawn(monkeypatch)
    folder = written.write_few(tmp_path)
    committed = {**written.PARAMS, "codebook": {"kmeans": {"kind": "kmeans", "num_codes": 128}}}
    (tmp_path / "params.yaml").write_text(
        json.dumps({**committed, "data": {"source": "digits", "img_px": written.IMG_PX}})
    )
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/code.py").write_text("")
    git("init", "-q"), git("add", "-A"), git("commit", "-qm", "code and params")
    return folder


def page(reports) -> str:
    root = reports.parent
    write_page(read_reports(reports, written.PIPELINE, root / "params.yaml", root / "dvc.lock"), reports / "index.html")
    return (reports / "index.html").read_text()


def test_a_page_names_commit_date_machine_and_changed_params_and_no_computer(reports):
    html = page(reports)
    assert f"commit {git('log', '-1', '--format=%h of %cs')}</dd>" in html and "edited since" not in html
    assert "1 differ from those committed" in html and ">codebook.kmeans.num_codes<" in html
    assert socket.gethostname() not in origin_of(reports).machine and "Linux" in origin_of(reports).machine


def origin_of(reports):
    root = reports.parent
    return origin(read_reports(reports, written.PIPELINE, root / "params.yaml", root / "dvc.lock"))


def test_a_commit_of_results_leaves_the_page_as_it_is_and_an_edit_of_code_is_named(reports):
    first = page(reports)
    (reports.parent / "dvc.lock").write_text((reports.parent / "dvc.lock").read_text() + "\n")
    git("add", "-A"), git("commit", "-qm", "results")
    assert page(reports) == first
    (reports.parent / "stages/code.py").write_text("x = 1\n")
    assert "edited since: stages/code.py</dd>" in page(reports)


def test_outside_git_the_page_says_so(tmp_path, monkeypatch):
    written.leave_plots_undrawn(monkeypatch)
    assert "not in a git checkout" in page_without_git(tmp_path)


def page_without_git(tmp_path) -> str:
    reports = written.write_few(tmp_path)
    write_page(written.read(reports), reports / "index.html")
    return (reports / "index.html").read_text()


def test_params_are_compared_by_dotted_key_with_lists_as_values():
    committed = flat({"a": {"b": [1, 2], "c": 1}, "d": 0.1})
    used = flat({"a.b": [1, 3], "a.c": 1, "d": 0.1, "pretrain.x": {"y": 1}})
    assert changed(committed, used) == [("a.b", "[1, 2]", "[1, 3]")]


@pytest.mark.parametrize(("clean", "warns"), [(0.81, False), (0.8, True), (0.79, True)])
def test_an_encoder_no_better_than_its_random_twin_is_warned_of(clean, warns, tmp_path, monkeypatch):
    written.leave_plots_undrawn(monkeypatch)
    folder = written.write_few(tmp_path)
    metrics = {name: {"clean": 0.8, "augmented": 0.5} for name in ("raw", "random_twin")}
    written.write_metrics(folder / "probe", {**metrics, "encoder": {"clean": clean, "augmented": 0.9}})
    found = weak_encoder(written.read(folder))
    said = [f"linear probes: clean {clean} and 0.8. Its features may say nothing"] if warns else []
    assert len(found) == len(said) and all(words in one for words, one in zip(said, found, strict=True))
