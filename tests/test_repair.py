"""`fix_issues` makes DVC work again after dvc.lock or its claims were left half written; it waits while DVC works.

Run: uv run pytest tests/test_repair.py
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny

from pipeline import dvc_locks, files, lockfile, repair
from pipeline.errors import PipelineError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
COPY = lockfile.copy_of(Path("dvc.lock"))
HEAD = "schema: '2.0'\nstages:\n"


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    lockfile.keep_copies()
    return root


def test_the_repositorys_own_files_are_whole():
    texts = [(tiny.ROOT / folder / "dvc.lock").read_text() for folder in ("", "studies")]
    recorded = lockfile.recorded_outputs(*texts)
    assert [*map(lockfile.problem, texts)] == ["", ""] and {"data/images", "reports/probe/augmented.png"} <= {*recorded}


@pytest.mark.parametrize(
    "text",
    ["schema: '2.0'\n", "schema: '1.0'\nstages: {}\n", "- 1\n", "stages:\n", f"{HEAD}  a: 1\n", "\0\n",
     f"{HEAD}  a:\n    deps: []\n", f"{HEAD}  a:\n    cmd: x\n    deps: 3\n", f"{HEAD}  a:\n    cmd: x\n    outs:\n",
     f"{HEAD}  a:\n    cmd: x\n    outs:\n    - path: b\n      hash: md5\n"],
)  # fmt: skip
def test_what_dvc_cannot_read_is_a_problem(text):
    assert lockfile.problem(text)


def test_a_cut_is_a_problem_or_leaves_what_dvc_can_read_and_a_problem_is_never_kept(project):
    text = (project / "dvc.lock").read_text()
    whole = lockfile.parse(text)
    for cut in range(0, len(text) - 1, 3):
        if not lockfile.problem(text[:cut]):
            found = lockfile.parse(text[:cut])
            assert text[cut - 1] == "\n" and [*found] == [*whole][: len(found)]
            continue
        (project / "dvc.lock").write_text(text[:cut])
        lockfile.keep_copies()
        assert COPY.read_text() == text
    (project / "dvc.lock").write_text(newer := text.replace("seed: 0", "seed: 1"))
    lockfile.keep_copies()
    assert COPY.read_text() == newer and [path.name for path in files.WORK.iterdir()] == ["dvc.lock"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_dvc_works_after_a_cut_and_finds_everything_up_to_date(project, share):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[: int(share * len(text))])
    [sentence] = repair.fix_issues()
    assert "dvc.lock" in sentence and "replaced by the copy of the last run" in sentence
    assert (project / "dvc.lock").read_text() == text and tiny.stale(project) == {}
    assert (files.WORK / "dvc.lock.broken").is_file() == (share > 0)
    assert repair.fix_issues() == []


def test_what_an_older_copy_or_a_readable_part_lacks_is_restored_from_the_run_cache(project, capfd):
    (project / "source.txt").write_text("8\n")
    tiny.repro(project)
    newest = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(newest[:-9])
    capfd.readouterr()
    assert len(repair.fix_issues()) == 1 and "one" in tiny.stale(project)
    tiny.repro(project)
    (project / "dvc.lock").write_text(newest[: newest.index("  three:\n")])
    assert repair.fix_issues() == [] and [*tiny.stale(project)] == ["three"]
    tiny.repro(project)
    assert "Running stage" not in capfd.readouterr().out
    assert lockfile.parse((project / "dvc.lock").read_text()) == lockfile.parse(newest) and tiny.stale(project) == {}


def test_a_missing_file_comes_back(project):
    (project / "dvc.lock").unlink()
    assert "dvc.lock is missing" in repair.fix_issues()[0] and tiny.stale(project) == {}


def test_without_a_copy_the_last_commit_has_one_and_without_that_the_file_is_removed(project):
    text = (project / "dvc.lock").read_text()
    COPY.unlink()
    (project / "dvc.lock").write_text("schema")
    assert "there is no copy: removed" in repair.fix_issues()[0] and not (project / "dvc.lock").exists()
    assert repair.fix_issues() == []
    (project / "dvc.lock").write_text(text)
    for command in (
        ["init", "-q"],
        ["add", "dvc.lock"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qmx"],
    ):
        subprocess.run(["git", *command], cwd=project, check=True)
    (project / "dvc.lock").write_text(text[:9])
    assert "the last commit" in repair.fix_issues()[0] and (project / "dvc.lock").read_text() == text


def test_a_merge_conflict_is_left_to_the_user(project):
    text = (project / "dvc.lock").read_text()
    conflict = text.replace("  two@p:\n", "<<<<<<< HEAD\n  two@p:\n=======\n  two@p:\n>>>>>>> other\n")
    (project / "dvc.lock").write_text(conflict)
    with pytest.raises(PipelineError, match="git checkout --ours dvc.lock"):
        repair.fix_issues()
    assert (project / "dvc.lock").read_text() == conflict


def test_copies_made_by_several_threads_while_dvc_rewrites_the_file_are_whole(project):
    text = (project / "dvc.lock").read_text()
    wholes, over = {text, text.replace("seed: 0", "seed: 1")}, threading.Event()

    def rewrite():
        while not over.is_set():
            for whole in wholes:
                with open("dvc.lock", "w+", buffering=256) as file:
                    for line in whole.splitlines(keepends=True):
                        file.write(line)

    writer = threading.Thread(target=rewrite)
    writer.start()
    keepers = [threading.Thread(target=lambda: [lockfile.keep_copies() for _ in range(20)]) for _ in range(2)]
    for keeper in keepers:
        keeper.start()
    for keeper in keepers:
        keeper.join()
        assert not lockfile.problem(COPY.read_text())
    over.set()
    writer.join()


@contextlib.contextmanager
def sleeper(*arguments: str):
    """A process that does nothing."""
    command = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def claim(pid: int, command: str, mode: str = "write") -> str:
    owner = {"pid": pid, "cmd": command}
    return json.dumps({mode: {str(Path("data/one").absolute()): owner if mode == "write" else [owner]}})


@pytest.mark.parametrize(
    "text", ["", "{", '{"write": {"x": 1}}', '{"other": {}}', "[]", '{"read": {"x": [{"pid": 1}]}}', "\0\0"]
)
def test_corrupt_claims_stop_dvc_and_are_removed(project, text):
    dvc_locks.CLAIMS.write_text(text)
    with pytest.raises(Exception, match="RWLock|corrupted|format"):
        tiny.stale(project)
    [sentence] = repair.fix_issues()
    assert "rwlock is cut off or corrupt: removed" in sentence and tiny.stale(project) == {}


def test_a_claim_whose_pid_belongs_to_another_process_or_a_zombie_is_removed(project):
    with sleeper() as other:
        dvc_locks.CLAIMS.write_text(claim(other.pid, "/venv/bin/dvc repro one"))
        with pytest.raises(Exception, match="busy"):
            tiny.stale(project)
        assert f"names process {other.pid}, which is not a DVC process any more" in repair.fix_issues()[0]
    assert tiny.stale(project) == {}
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    dvc_locks.CLAIMS.write_text(claim(zombie.pid, "dvc repro"))
    assert "names process" in repair.fix_issues()[0]
    zombie.wait()


def test_a_process_whose_command_may_not_be_read_counts_as_alive(project, monkeypatch):
    import psutil

    def refuse(process):
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", refuse)
    dvc_locks.CLAIMS.write_text(claim(os.getppid(), "dvc repro"))
    assert repair.fix_issues() == [] and dvc_locks.CLAIMS.stat().st_size > 0


@pytest.mark.parametrize("mode", ["write", "read"])
def test_nothing_is_touched_while_a_dvc_process_is_at_work(project, mode):
    (project / "dvc.lock").write_text("")
    with sleeper("repro", "one") as dvc:
        dvc_locks.CLAIMS.write_text(claim(dvc.pid, "/venv/bin/dvc repro one", mode))
        assert repair.fix_issues() == [] and (project / "dvc.lock").read_text() == ""
    assert len(repair.fix_issues()) == 1, "a dead process's claim does not count"


def test_nothing_is_touched_while_dvc_holds_its_lock(project):
    from dvc.lock import LockError, make_lock

    (project / "dvc.lock").write_text("")
    with make_lock(str(dvc_locks.DVC_LOCK)):
        assert repair.fix_issues() == [] and (project / "dvc.lock").read_text() == ""
    with dvc_locks.exclude_dvc() as alone:
        assert alone
        with pytest.raises(LockError):
            make_lock(str(dvc_locks.DVC_LOCK))._do_lock()
    assert len(repair.fix_issues()) == 1


def test_a_folder_without_dvc_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repair.fix_issues() == [] and [*tmp_path.iterdir()] == []
