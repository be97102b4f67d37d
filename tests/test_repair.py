"""`heal` makes DVC work again after dvc.lock or its claims were left half written, and touches nothing while DVC works.

Run: uv run pytest tests/test_repair.py
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pipeline import lockfile, locks, repair
from pipeline.errors import PipelineError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    monkeypatch.chdir(root)
    repair.keep()
    return root


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.77, 0.95, 0.999])
def test_dvc_works_after_a_cut_and_finds_all_up_to_date(project, share):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[: int(share * len(text))])
    [sentence] = repair.heal()
    assert "dvc.lock" in sentence and "copy of the last run" in sentence
    assert (project / "dvc.lock").read_text() == text and tiny.stale(project) == {}
    assert repair.DAMAGED.is_file() == (share > 0)
    assert repair.heal() == []


def test_a_missing_file_comes_back(project):
    (project / "dvc.lock").unlink()
    assert "dvc.lock is missing" in repair.heal()[0] and tiny.stale(project) == {}


def test_without_a_copy_git_has_one_and_without_that_what_is_whole_stays(project):
    text = (project / "dvc.lock").read_text()
    repair.KEPT.unlink()
    (project / "dvc.lock").write_text(text[: text.index("  two@q:") + 30])
    assert "the last commit" in repair.heal()[0]
    assert [*lockfile.entries_of((project / "dvc.lock").read_text())] == ["one", "frozen", "two@p"]
    (project / "dvc.lock").write_text("schema")
    assert "there is no copy: removed" in repair.heal()[0] and not (project / "dvc.lock").exists()
    assert repair.heal() == []
    (project / "dvc.lock").write_text(text)
    commit(project)
    (project / "dvc.lock").write_text(text[:9])
    assert "the last commit" in repair.heal()[0] and (project / "dvc.lock").read_text() == text


def commit(project: Path) -> None:
    """What `git commit` does with the plan and dvc.lock, in a new repository."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "dvc.lock", "dvc.yaml", "params.yaml"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=project, check=True)


def believed(project: Path) -> bool:
    """Whether `heal` leaves dvc.lock alone, and `keep` then takes it."""
    text = (project / "dvc.lock").read_text()
    left = repair.heal() == [] and (project / "dvc.lock").read_text() == text
    repair.keep()
    return left and repair.KEPT.read_text() == text


def part(entry: str) -> str:
    """A dvc.lock that a cut at the end of a line left readable: without its last entry, or without that one's outs."""
    text = Path("dvc.lock").read_text()
    return text[: text.index("  three:\n")] if entry == "gone" else text[: text.rindex("    outs:\n")]


def test_a_dvc_lock_taken_back_from_git_is_believed(project):
    commit(project)
    before = (project / "dvc.lock").read_text()
    params = tiny.PARAMS.replace("[p, q]", "[p, q, r]").replace("second:\n", "second:\n  r: {colour: red}\n")
    (project / "params.yaml").write_text(params)
    tiny.repro(project)
    repair.keep()
    assert repair.KEPT.read_text().startswith(lockfile.HEAD) and "  two@r:\n" in repair.KEPT.read_text()
    subprocess.run(["git", "checkout", "-q", "dvc.lock", "params.yaml"], cwd=project, check=True)
    assert (project / "dvc.lock").read_text() == before and believed(project)


def test_an_entry_that_lost_an_out_in_dvc_yaml_is_believed(project):
    metrics = "    metrics:\n      - metrics.json: {cache: false}\n"
    (project / "dvc.yaml").write_text(tiny.DVC_YAML.replace(metrics, ""))
    tiny.dvc(project, "repro", "-q", "-f", "-s", "three")
    assert repair.KEPT.read_text().startswith((project / "dvc.lock").read_text()) and believed(project)


@pytest.mark.parametrize("entry", ["gone", "shorter"])
def test_a_readable_part_is_damage_while_the_copy_is_newer_than_the_plan_and_git_has_another(project, entry):
    commit(project)
    text = (project / "dvc.lock").read_text().replace("seed: 0", "seed: 1")
    (project / "dvc.lock").write_text(text)
    repair.keep()
    (project / "dvc.lock").write_text(part(entry))
    repair.keep()
    assert repair.KEPT.read_text() == text and "dvc.lock ends" in repair.heal()[0]
    assert (project / "dvc.lock").read_text() == text


@pytest.mark.parametrize("entry", ["gone", "shorter"])
@pytest.mark.parametrize("newer", ["dvc.yaml", "params.yaml"])
def test_a_readable_dvc_lock_is_believed_when_the_plan_is_newer_than_the_copy(project, entry, newer):
    (project / "dvc.lock").write_text(part(entry))
    (project / newer).touch()
    assert believed(project)


@pytest.mark.parametrize("entry", ["gone", "shorter"])
def test_a_readable_dvc_lock_is_believed_when_it_is_gits(project, entry):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(part(entry))
    commit(project)
    assert believed(project)
    (project / "dvc.lock").write_text(text)
    repair.keep()
    (project / "dvc.lock").write_text(part(entry))
    assert believed(project)


def test_an_unreadable_dvc_lock_is_damage_whatever_the_plan_and_git_say(project):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[:-9])
    commit(project)
    (project / "dvc.yaml").touch()
    repair.keep()
    assert repair.KEPT.read_text() == text
    assert "is cut off" in repair.heal()[0] and (project / "dvc.lock").read_text() == text


def test_keep_needs_neither_git_nor_params_and_asks_git_only_where_lines_are_lost(project, monkeypatch):
    asked = []
    monkeypatch.setattr(repair, "git", lambda *arguments: asked.append(arguments) or "")
    text = (project / "dvc.lock").read_text()
    (project / "params.yaml").unlink()
    for newer in (text.replace("seed: 0", "seed: 1"), text):
        (project / "dvc.lock").write_text(newer)
        repair.keep()
        assert repair.KEPT.read_text() == newer and not asked
    (project / "dvc.lock").write_text(part("gone"))
    repair.keep()
    assert repair.KEPT.read_text() == text and len(asked) == 1


def test_a_merge_conflict_is_left_to_its_owner(project):
    text = (project / "dvc.lock").read_text()
    conflict = text.replace("  two@p:\n", "<<<<<<< HEAD\n  two@p:\n=======\n  two@p:\n>>>>>>> other\n")
    (project / "dvc.lock").write_text(conflict)
    with pytest.raises(PipelineError, match="git checkout --ours dvc.lock"):
        repair.heal()
    assert (project / "dvc.lock").read_text() == conflict


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


def claim(pid: int, command: str, mode: str = "write") -> dict:
    owner = {"pid": pid, "cmd": command}
    return {mode: {str(Path("data/one").absolute()): owner if mode == "write" else [owner]}}


@pytest.mark.parametrize(
    "text", ["", "{", '{"write": {"x": 1}}', '{"other": {}}', "[]", '{"read": {"x": [{"pid": 1}]}}', "\0\0"]
)
def test_damaged_claims_stop_dvc_and_are_removed(project, text):
    locks.CLAIMS.write_text(text)
    with pytest.raises(Exception, match="RWLock|corrupted|format"):
        tiny.stale(project)
    [sentence] = repair.heal()
    assert "rwlock is cut off or damaged: removed" in sentence and tiny.stale(project) == {}


def test_a_claim_whose_pid_belongs_to_another_process_now_is_removed(project):
    with sleeper() as other:
        locks.CLAIMS.write_text(json.dumps(claim(other.pid, "/venv/bin/dvc repro one")))
        with pytest.raises(Exception, match="busy"):
            tiny.stale(project)
        assert f"names process {other.pid}, which is no DVC process" in repair.heal()[0]
    assert tiny.stale(project) == {}


def test_a_process_whose_command_may_not_be_read_counts_as_alive(project, monkeypatch):
    import psutil

    def refuse(process):
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", refuse)
    locks.CLAIMS.write_text(json.dumps(claim(os.getppid(), "dvc repro")))
    assert repair.heal() == [] and locks.CLAIMS.stat().st_size > 0


def test_a_zombies_claim_is_removed(project):
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    locks.CLAIMS.write_text(json.dumps(claim(zombie.pid, "dvc repro")))
    assert "names process" in repair.heal()[0]
    zombie.wait()


@pytest.mark.parametrize("mode", ["write", "read"])
def test_nothing_is_touched_while_a_dvc_process_is_at_work(project, mode):
    (project / "dvc.lock").write_text("")
    with sleeper("repro", "one") as dvc:
        locks.CLAIMS.write_text(json.dumps(claim(dvc.pid, "/venv/bin/dvc repro one", mode)))
        assert repair.heal() == [] and (project / "dvc.lock").read_text() == ""
    assert len(repair.heal()) == 1, "a dead process's claim does not count"


def test_nothing_is_touched_while_dvc_holds_its_lock(project):
    from dvc.lock import LockError, make_lock

    (project / "dvc.lock").write_text("")
    with make_lock(str(locks.DVC_LOCK)):
        assert repair.heal() == [] and (project / "dvc.lock").read_text() == ""
    with locks.hold_dvc() as alone:
        assert alone
        with pytest.raises(LockError):
            make_lock(str(locks.DVC_LOCK))._do_lock()
    assert len(repair.heal()) == 1


def test_a_folder_without_dvc_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repair.heal() == [] and [*tmp_path.iterdir()] == []
