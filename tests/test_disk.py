"""A full disk is a message with the place and the free bytes, wherever it is: output, scratch, or DVC's cache.

Run: uv run pytest tests/test_disk.py
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mini
import pytest

from stages.core import UserError, progress

FULL = """
import os, sys

def fill(event, args):
    if event == "open" and "scratch/data-alone/" in str(args[0]) and args[2] & os.O_WRONLY:
        raise OSError(28, "No space left on device", args[0])

if "stages.steps.run" in sys.orig_argv:
    sys.addaudithook(fill)
"""


def estimate(out: str = "data/images") -> None:
    progress.print_cost_estimate("data", Path(out), {"images": 1}, 2_000_000, 1)


@pytest.fixture
def small(monkeypatch, workdir):
    """Folders whose file systems have 1 MB left; all others have 1 GB."""
    names: set[Path] = set()
    (workdir / ".dvc").mkdir()
    (workdir / "elsewhere").mkdir()
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(workdir / "global"))
    full = SimpleNamespace(free=1_000_000)
    free = SimpleNamespace(free=10**9)
    monkeypatch.setattr(progress.shutil, "disk_usage", lambda path: full if Path(path).resolve() in names else free)
    return names


@pytest.mark.parametrize("config", ["global/config", ".dvc/config", ".dvc/config.local"])
def test_the_cost_estimate_looks_at_the_file_system_of_dvcs_cache(config, small, workdir):
    small.add(workdir / "elsewhere")
    estimate()
    (workdir / config).parent.mkdir(exist_ok=True)
    folder = workdir / "elsewhere/cache" if config.startswith("global") else "../elsewhere/cache"
    (workdir / config).write_text(f"[cache]\n    dir = {folder}\n['remote \"x\"']\n    url = /x\n")
    with pytest.raises(UserError, match=r"elsewhere/cache: data needs about 2\.0 MB, its file system has 1\.0 MB free"):
        estimate()
    estimate("reports/data")
    (workdir / ".dvc/config.local").write_text("[cache]\n    dir = /\n")
    estimate()


@pytest.mark.parametrize("name", ["data", "scratch", ".dvc/cache"])
def test_it_looks_at_those_of_the_output_of_scratch_and_of_the_cache_in_its_usual_place(name, small, workdir):
    (workdir / name).mkdir()
    small.add(workdir / name)
    with pytest.raises(UserError, match=r"data needs about 2\.0 MB, its file system has 1\.0 MB free"):
        estimate()


def test_a_scratch_that_fills_up_while_a_stage_works_ends_it_with_a_message(tmp_path):
    root = mini.build(tmp_path / "project")
    (tmp_path / "sitecustomize.py").write_text(FULL)
    command = [sys.executable, "-m", "stages.steps.run", "alone", "--out", "data/alone"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: scratch/data-alone/" in done.stderr and "no space left: " in done.stderr


@pytest.mark.parametrize("text", ["I/O error: No space left on device (os error 28)", "400 requested and 0 written"])
def test_the_words_of_libraries_for_a_full_disk_are_known_and_others_are_left_alone(text, workdir):
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(text)
    assert "no space left: " in progress.full_disk(wrapped)
    assert progress.full_disk(ValueError("400 requested")) == ""
