"""What DVC and semtok see of a changed image folder, with DVC itself on the data stage of dvc.yaml.

Run: uv run pytest tests/test_data_dvc.py
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import tiny
import toy as toys
from photos import good_images, params, save
from ruamel.yaml import YAML

from stages.check import errors_in
from stages.core import UserError
from stages.core.params import load
from stages.data.params import Params

NO_VAL = {"val_folder": "data/code/no_folder", "captions": "data/code/no_folder"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with the dependencies of the stage `data`, and the stage `code`, both run."""
    root = tmp_path / "project"
    root.mkdir()
    stages = YAML(typ="safe").load(tiny.ROOT / "dvc.yaml")["stages"]
    copied = {key: stages["data"][key] for key in ("deps", "params", "outs")}
    code = {
        "cmd": "mkdir -p data/code && cd data/code && echo 1 | tee data.prepare no_folder",
        "outs": ["data/code"],
    }
    data = {"cmd": "rm -rf data/images && cp -r ${data.folder} data/images", **copied}
    good_images(tmp_path / "photos/a", 3)
    with open(root / "dvc.yaml", "w") as file:
        YAML(typ="safe").dump({"stages": {"code": code, "data": data}}, file)
    with open(root / "params.yaml", "w") as file:
        YAML(typ="safe").dump({"data": {"source": "folder", "folder": str(tmp_path / "photos"), **NO_VAL}}, file)
    tiny.dvc(root, "init", "--no-scm", "-q")
    tiny.repro(root)
    return root


def add(photos: Path) -> None:
    save(photos / "b/new.png")


def overwrite(photos: Path) -> None:
    """Another content of the same size, at another time."""
    path = photos / "a/0.png"
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(0, before.st_mtime_ns + 10**9))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("change", [add, overwrite, lambda photos: (photos / "a/2.png").unlink()])
def test_a_changed_folder_is_a_changed_dependency(project, change):
    assert tiny.stale(project) == {}
    photos = project.parent / "photos"
    change(photos)
    assert tiny.stale(project) == {"data": [{"changed deps": {str(photos): "modified"}}]}
    [line] = re.findall(r"^data +stale .*", tiny.semtok(project, "status"), re.M)
    assert str(photos)[:40] in line
    tiny.repro(project)
    assert tiny.stale(project) == {} and len([*(project / "data/images").rglob("*.png")]) in (2, 3, 4)


def test_digits_depend_on_a_file_that_the_stage_code_writes(project):
    with open(project / "params.yaml", "w") as file:
        YAML(typ="safe").dump({"data": {"source": "digits", "folder": "data/code/no_folder", **NO_VAL}}, file)
    shutil.rmtree(project / "data/code")
    tiny.repro(project)
    assert tiny.stale(project) == {} and (project / "data/images").read_text() == "1\n"


def test_status_names_a_link_that_leads_nowhere_and_an_impossible_path(project):
    (project.parent / "photos/a/gone.png").symlink_to("nowhere.png")
    printed = tiny.semtok(project, "status")
    assert re.search(r"^data +stale +DVC cannot compare its files: \[Errno 2\] No such file", printed, re.M)
    (project / "params.yaml").write_text(
        'data: {source: folder, folder: "", val_folder: data/code/no_folder, captions: ""}'
    )
    printed = tiny.semtok(project, "status", status=2)
    assert printed == "error: DVC cannot fill params.yaml into dvc.yaml\n"


def test_an_entry_at_which_dvc_would_stop_is_named_before_it_starts(workdir):
    good_images(workdir / "photos/a")
    (workdir / "photos/a/gone.png").symlink_to("nowhere.png")
    (workdir / "photos/.dvcignore").touch()
    text = toys.TEXT.replace("source: digits", "source: folder")
    (workdir / "params.yaml").write_text(text.replace("  folder: data/code/no_folder", "  folder: photos"))
    said = r"DVC, which compares its files, cannot read '.dvcignore' \(a file of DVC .*'a/gone.png' \(a link"
    with pytest.raises(UserError, match=said):
        load("data", Params)
    [line] = errors_in(workdir / "params.yaml")
    assert "'a/gone.png' (a link that leads nowhere: No such file or directory)" in line


def test_what_dvc_can_read_is_accepted(workdir):
    good_images(workdir / "photos/a")
    good_images(workdir / "elsewhere")
    (workdir / "photos/b").symlink_to(workdir / "elsewhere")
    (workdir / "photos/a/link.png").symlink_to("0.png")
    assert params(workdir / "photos").folder


def test_an_entry_that_is_no_file_is_named(workdir):
    good_images(workdir / "photos")
    os.mkfifo(workdir / "photos/pipe.png")
    with pytest.raises(ValueError, match=r"cannot read 'pipe.png' \(not a regular file\). Remove them"):
        params(workdir / "photos")
