"""DVC's cache: what it cannot keep fails the stage, and objects that are not what their names say are found.

Run: uv run pytest tests/test_cache.py
"""

import hashlib
import os

import pytest
import tiny

from pipeline import environment, repair
from pipeline import objects as cache_objects
from pipeline.errors import PipelineError
from pipeline.finding import Finding
from pipeline.repair import NO_SCM
from pipeline.repro import Children, StageFailed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    """Up to date, with this repository's code for DVC's process."""
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    return root


@pytest.fixture
def doctor(project, monkeypatch):
    """The same, with what takes `semtok doctor` seconds left out."""
    for name in ("torch_gpus", "faiss_kmeans", "prefect_server"):
        monkeypatch.setattr(environment, name, list)
    monkeypatch.setattr(environment, "prefect_runs", lambda fix: [Finding("warn", "prefect", "no server", "semtok ui")])
    return project


def object_of(root, content: bytes):
    """The path of a content in the cache."""
    name = hashlib.md5(content).hexdigest()
    return root / ".dvc/cache/files/md5" / name[:2] / name[2:]


def run(stage: str) -> str:
    """What DVC did with one stage below `semtok run`."""
    children = Children()
    child = children.start(stage, force=False, env={})
    for _ in child.lines(every_secs=60):
        pass
    child.process.stdout.close()
    return child.outcome()


FULL = """
import re, sys

def fill(event, args):
    if event == "open" and re.search(r"/cache/files/md5/../.+[.]tmp$", str(args[0])):
        raise OSError(28, "No space left on device", args[0])

if "pipeline.dvc_process" in sys.orig_argv:
    sys.addaudithook(fill)
"""


def test_outputs_that_the_cache_cannot_take_fail_the_stage_and_are_kept_later_without_running_it(project, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(FULL)
    (project / "source.txt").write_text("8\n")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StageFailed) as failed:
        patch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{tiny.ROOT}")
        run("one")
    said = str(failed.value)
    assert said.startswith("error: one: DVC could not keep its outputs in the cache")
    assert "failed to transfer" in said and "No space left on device" in said
    assert "They are whole in the workspace" in said and "`dvc commit -f one` keeps them" in said
    assert (project / "data/one").read_text() == "8\n" and "one" in tiny.stale(project)
    tiny.dvc(project, "commit", "-f", "one")
    assert run("one") == "unchanged" and object_of(project, b"8\n").is_file()


def damage(path, keep_size: bool = True) -> None:
    """Other bytes in an object, which DVC protects by its mode."""
    path.chmod(0o644)
    path.write_bytes(b"9\n" if keep_size else b"")


def objects(root, *options: str, status: int = 0) -> list[str]:
    """What `semtok doctor` says of the cache's objects."""
    printed = tiny.semtok(root, "doctor", *options, status=status)
    return [line[22:] for line in printed.splitlines() if line[6:19] in ("cache objects", "removed      ")]


@pytest.mark.parametrize("keep_size", [True, False])
def test_damaged_objects_are_named_with_what_they_stand_for_and_removed_so_that_repro_computes_again(doctor, keep_size):
    assert "have the bytes of their names" in objects(doctor)[0] and objects(doctor)[0].endswith("0.0 MB read")
    path = object_of(doctor, b"7\n")
    damage(path, keep_size)
    [line] = objects(doctor, status=1)
    assert f"{path.name}: other bytes" in line and "of data/one, shipped.txt, data/two/p, data/two/q and" in line
    assert path.exists(), "nothing is changed without --fix"
    assert [line for line in objects(doctor, "--fix") if str(path) in line] and not path.exists()
    assert all((doctor / name).read_text() == "7\n" for name in ("data/one", "data/two/p"))
    tiny.repro(doctor)
    assert tiny.stale(doctor) == {} and path.read_text() == "7\n"


def test_a_file_of_the_workspace_that_is_the_damaged_object_by_a_hard_link_goes_with_it(doctor):
    path, one = object_of(doctor, b"7\n"), doctor / "data/one"
    one.unlink()
    os.link(path, one)
    damage(path)
    assert "data/one, which was the same damaged file by a link" in objects(doctor, "--fix")
    assert not one.exists() and (doctor / "data/two/p").read_text() == "7\n"
    tiny.repro(doctor)
    assert tiny.stale(doctor) == {} and one.read_text() == "7\n"


def test_a_damaged_list_of_files_belongs_to_its_folder_and_only_changed_objects_are_read_again(doctor, monkeypatch):
    [path] = [path for path in (doctor / ".dvc/cache/files/md5").glob("*/*.dir")]
    objects(doctor)
    readings = []
    monkeypatch.setattr(cache_objects, "md5", lambda path: readings.append(path) or "0" * 32)
    os.utime(path)
    [line] = objects(doctor, status=1)
    assert readings == [path] and ": of data/three;" in line
    cache_objects.KNOWN.write_text("{")
    assert len(objects(doctor, status=1)) == len(readings) - 1 > 1


def test_a_folder_without_git_is_refused_with_the_command_that_helps(doctor):
    (doctor / ".dvc/config").write_text((tiny.ROOT / ".dvc/config").read_text())
    for command in (["status"], ["set", "first.seed=1"]):
        assert f"is not a git repository. For DVC to work without git, run `{NO_SCM}`" in tiny.semtok(
            doctor, *command, status=2
        )
    with pytest.raises(PipelineError, match="core.no_scm true"):
        repair.fix_issues()
    assert f"→ {NO_SCM}" in tiny.semtok(doctor, "doctor", status=1)
    tiny.dvc(doctor, *NO_SCM.split()[1:])
    assert "everything is up to date" in tiny.semtok(doctor, "status")
