"""What the data stage says before any work: its cost, a full disk, impossible params.

Run: uv run pytest tests/test_data_params.py
"""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from digits import YAML, make

from stages.core import UserError, progress
from stages.core.params import load
from stages.data.params import Params

ROOT = Path(__file__).resolve().parents[1]


def test_cost_estimate_names_counts_and_sizes_in_one_line(capsys, monkeypatch, workdir):
    set_free(monkeypatch, 79_000_000_000)
    progress.print_cost_estimate("data", Path("data/images"), {"images": 1797}, 5_520_000, 300_000_000)
    expected = (
        "cost estimate: data: 1,797 images -> data/images: 5.5 MB on disk, peak memory about 300 MB; 79 GB free\n"
    )
    assert capsys.readouterr().out == expected


def test_full_disk_stops_the_stage_before_any_work(monkeypatch, workdir):
    set_free(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"images: data needs about 5\.9 MB, its file system has 1\.0 kB free"):
        make(workdir / "images")
    assert not list(workdir.rglob("*.tar"))


def set_free(monkeypatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(progress.shutil, "disk_usage", lambda path: usage(10**12, 10**12 - free, free))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (999_600, "1.0 MB"), (9_940, "9.9 kB"), (78_600_000_000, "79 GB")]
)
def test_sizes_are_shown_to_two_digits(count, text):
    assert progress.format_bytes(count) == text


@pytest.mark.parametrize("val_fraction", [0.001, 0.999])
def test_split_without_every_digit_is_refused(workdir, val_fraction):
    with pytest.raises(UserError, match="data.val_fraction = 0.*both splits need 10 or more"):
        make(workdir / "images", val_fraction=val_fraction)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "source: digits",
            "source: folder",
            "data: folder = 'data/code/no_folder': with source: folder, expected a folder",
        ),
        (
            "folder: data/code/no_folder",
            "folder: photos",
            "folder = 'photos': with source: digits, expected a folder of images, or data/code/no_folder",
        ),
        ("folder: data/code/no_folder", 'folder: ""', "folder = '': with source: digits, expected a folder"),
        ("format: png", "format: gif", "data.format = 'gif': input should be 'png' or 'jpg'"),
        ("val_fraction: 0.16528", "val_fraction: 1.0", "data.val_fraction = 1.0: input should be less than 1"),
        ("seed: 0", "seed: 0, sed: 1", "data.sed = 1: unknown key"),
    ],
)
def test_impossible_params_are_named(workdir, old, new, message):
    Path("params.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(UserError, match=message):
        load("data", Params)


def test_importing_the_params_loads_no_heavy_library():
    heavy = "{'torch', 'PIL', 'sklearn', 'webdataset'}"
    code = f"import sys, stages.data.params; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
