"""What DVC leaves behind when it is killed: `fix_issues` removes it, so that the same command works again.

Run: uv run pytest tests/test_killed.py      (-m slow: killed at every fifth step of a run, ten minutes)
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pipeline import lockfile, repair

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    lockfile.keep_copies()
    return root


def test_a_run_that_was_only_begun_in_the_run_cache_would_fail_forever_and_is_removed(project):
    (project / "source.txt").write_text("8\n")
    tiny.repro(project, "one")
    [run] = newest(project / ".dvc/cache/runs")
    run.unlink()
    for text in ("7\n", "8\n"):
        (project / "source.txt").write_text(text)
        with pytest.raises(Exception, match="failed to reproduce") if text == "8\n" else contextlib.nullcontext():
            tiny.repro(project, "one")
    assert "removed 1 unfinished entries" in repair.fix_issues()[0]
    tiny.repro(project, "one")
    assert repair.fix_issues() == [] and (project / "data/one").read_text() == "8\n"


def newest(folder: Path) -> list[Path]:
    """The file written last."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)[-1:]


def test_files_that_dvc_was_writing_are_removed_and_no_others(project):
    name = ".2j7OHFY-6bMh1aTaPK4LSw.tmp"
    run = newest(project / ".dvc/cache/runs")[0].parent
    left = [
        run / name,
        project / ".dvc/cache/files/md5" / name,
        project / ".dvc/cache/files/md5/00" / name,
        project / "data" / name,
    ]
    ours = [project / "data/.notes.tmp", project / "data/two/x.tmp", project / "elsewhere" / name]
    for path in left + ours:
        path.parent.mkdir(exist_ok=True)
        path.write_text("part")
    assert "removed 4 temporary files" in repair.fix_issues()[0] and repair.fix_issues() == []
    assert not any(path.exists() for path in left) and all(path.exists() for path in ours)
    assert any(run.iterdir()), "the run itself stays"


def test_in_a_cache_that_others_share_only_what_is_old_is_removed(project, tmp_path):
    (project / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    begun = tmp_path / "shared/runs/00/0011"
    begun.mkdir(parents=True)
    assert repair.fix_issues() == [] and begun.is_dir()
    os.utime(begun, (0, 0))
    assert len(repair.fix_issues()) == 1 and not begun.exists()


def test_beside_experiments_in_workspaces_of_their_own_only_what_is_old_is_removed(project):
    begun, part = project / ".dvc/cache/runs/00/0011", project / ".dvc/cache/files/md5/.2j7OHFY-6bMh1aTaPK4LSw.tmp"
    begun.mkdir(parents=True)
    part.write_text("part")
    workspace = project / ".dvc/tmp/exps/tmp1a2b3c4d"
    workspace.mkdir(parents=True)
    assert repair.fix_issues() == [] and begun.is_dir() and part.is_file()
    assert repair.unused([Path(".dvc/cache/files/md5/gone")]) == [], "renamed by an experiment meanwhile"
    os.utime(begun, (0, 0))
    os.utime(part, (0, 0))
    assert len(repair.fix_issues()) == 2 and not begun.exists() and not part.exists()
    begun.mkdir()
    workspace.rmdir()
    assert len(repair.fix_issues()) == 1 and not begun.exists(), "an empty folder of experiments has none"


def test_a_lock_on_an_experiments_ref_is_removed_once_it_is_old(project):
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    lock, other = project / ".git/refs/exps/exec/EXEC_BASELINE.lock", project / ".git/refs/heads/main.lock"
    for path in (lock, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert repair.fix_issues() == [] and lock.exists()
    os.utime(lock, (0, 0))
    os.utime(other, (0, 0))
    assert "EXEC_BASELINE.lock" in repair.fix_issues()[0] and not lock.exists() and other.exists()


KILL = """
import os, signal, sys
steps, last = 0, int(os.environ.get("KILL_AT", 0))
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.chmod", "subprocess.Popen")

def step(event, args):
    global steps
    if event in EVENTS or event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR):
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

if "dvc" in sys.orig_argv:
    import atexit
    atexit.register(lambda: print("steps:", steps, file=sys.stderr))
    sys.addaudithook(step)
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["computed", "restored"])
def test_killed_at_any_step_that_changes_a_file_dvc_works_after_the_repair(
    tmp_path_factory, tmp_path, monkeypatch, case
):
    template, work = tiny.project(tmp_path_factory, tmp_path / "template"), tmp_path / "work"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(KILL)
    (template / "source.txt").write_text("8\n")
    if case == "restored":
        tiny.dvc(template, "repro", "-q")
        for text in ("7\n", "8\n"):
            tiny.dvc(template, "repro", "-q")
            (template / "source.txt").write_text(text)

    def dvc_repro(kill_at: int) -> subprocess.CompletedProcess:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "KILL_AT": str(kill_at), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "dvc", "repro", "-q"]
        return subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)

    steps = int(dvc_repro(0).stderr.rpartition("steps: ")[2])
    assert steps > 100
    for kill_at in range(1, steps - 5, 5):
        assert dvc_repro(kill_at).returncode == -9, kill_at
        monkeypatch.chdir(work)
        repair.fix_issues()
        tiny.dvc(work, "repro", "-q")
        assert tiny.stale(work) == {} and not [*work.rglob("*.tmp")] and repair.fix_issues() == [], kill_at
