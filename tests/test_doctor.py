"""`semtok doctor` lists what is wrong with the command that helps, fixes with --fix what a crash left, never hangs.

Run: uv run pytest tests/test_doctor.py      (-m slow: all of it on this very installation)
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import forks
import pytest
import tiny
from mini import run as run_in

from pipeline import cleanup, dvc_locks, environment, lockfile
from pipeline.finding import Finding

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
SLOW = ("torch_gpus", "faiss_kmeans", "prefect_server")


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    """Up to date, with what takes seconds left out."""
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    (root / ".dvc/config").write_text((tiny.ROOT / ".dvc/config").read_text() + "    no_scm = true\n")
    monkeypatch.chdir(root)
    lockfile.keep_copies()
    for name in SLOW:
        monkeypatch.setattr(environment, name, list)
    monkeypatch.setattr(environment, "prefect_runs", lambda fix: [Finding("warn", "prefect", "no server", "semtok ui")])
    return root


def ask(root, *options: str, status: int = 0) -> dict[str, list[tuple[str, str]]]:
    """State and text of each finding, a fix behind it, by subject."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = tiny.semtok(root, "doctor", *options, status=status).splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "→" not in line:
            fix = after.strip() if "→" in after else ""
            found.setdefault(line[6:20].strip(), []).append((line[:4].strip(), f"{line[22:]} {fix}".strip()))
    return found


def test_a_project_in_order(project):
    found = ask(project)
    assert {subject: [state for state, _ in lines] for subject, lines in found.items()} == {
        "python": ["ok"], "packages": ["ok"], "git": ["warn"], "dvc": ["ok"], "data": ["ok"], "dvc cache": ["ok", "ok"],
        "cache objects": ["ok"], "issues": ["ok"], "scratch": ["ok"], "prefect": ["warn"],
    }  # fmt: skip
    assert found["git"][0][1].endswith("→ git init") and found["prefect"][0][1].endswith("→ semtok ui")
    assert "MB, files come out as reflink or copy" in found["dvc cache"][1][1]
    assert "torch" in found["packages"][0][1] and "prefect" in found["packages"][0][1]


def test_a_cut_lockfile_and_corrupt_claims_fail_until_they_are_fixed(project):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[:300])
    dvc_locks.CLAIMS.write_text("{")
    found = ask(project, status=1)["issue"]
    assert [state for state, _ in found] == ["FAIL", "FAIL"] and all(
        "→ semtok doctor --fix" in line for _, line in found
    )
    assert (project / "dvc.lock").read_text() == text[:300], "nothing is changed without --fix"
    assert [state for state, _ in ask(project, "--fix")["repaired"]] == ["ok", "ok"]
    assert (project / "dvc.lock").read_text() == text and ask(project)["issues"][0][0] == "ok"


def test_a_merge_conflict_is_a_failure_that_names_the_command(project):
    (project / "dvc.lock").write_text("<<<<<<< HEAD\n")
    [(state, line)] = ask(project, "--fix", status=1)["dvc.lock"]
    assert state == "FAIL" and "git checkout --ours dvc.lock" in line


def test_while_dvc_is_at_work_nothing_is_checked(project):
    from dvc.lock import make_lock

    (project / "dvc.lock").write_text("")
    with make_lock(str(dvc_locks.DVC_LOCK)):
        assert ask(project, "--fix")["issue"] == [
            ("warn", "a DVC process is running: check again when it has finished")
        ]
    assert (project / "dvc.lock").read_text() == ""


def test_unfinished_artifacts_without_a_writer_are_removed(project):
    for name in ("data/.one.partial", "data/two/.p.partial", "data/.other.old"):
        (project / name).mkdir()
        (project / name / "part.bin").write_bytes(b"1")
    (project / "data/three/.x.json.partial").write_text("{")
    (project / "scratch/locks").mkdir(parents=True)
    code = "print(1, flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "data/two/p"], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (project / "scratch/locks/data-two-p").write_text(str(writer.pid))
        names = [line.split(":")[0] for _, line in ask(project)["unfinished"]]
        assert names == ["data/.one.partial", "data/.other.old", "data/three/.x.json.partial"]
        assert len(ask(project, "--fix")["removed"]) == 3
        writer.kill()
    assert not (project / "data/.one.partial").exists() and (project / "data/two/.p.partial").exists()
    assert [line.split(":")[0] for _, line in ask(project)["unfinished"]] == ["data/two/.p.partial"]


def add_training(project, key: str, published: dict | None = None, days: float = 0.1) -> None:
    """Checkpoints of a training; of a finished one if it has published an artifact."""
    folder = project / "scratch/decoder-x" / key
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(bytes(2_000_000))
    if published:
        (folder / "published.json").write_text(json.dumps(published))
    for path in folder.iterdir():
        os.utime(path, (time.time() - days * 86400,) * 2)


def test_trainings_are_listed_with_size_age_and_what_removes_them(project):
    assert ask(project)["scratch"] == [("ok", "no checkpoints")]
    add_training(project, "0123")
    add_training(project, "4567", days=40)
    (project / "scratch/durations/x").mkdir(parents=True)
    where = "resumes from it under the same params, inputs and code → rm -r scratch/decoder-x"
    assert ask(project, "--fix")["scratch"] == [
        ("ok", f"scratch/decoder-x/0123: 2.0 MB, 2 hours old; unfinished; its stage {where}/0123"),
        ("warn", f"scratch/decoder-x/4567: 2.0 MB, 40 days old; unfinished; its stage {where}/4567"),
    ]


def test_checkpoints_are_removed_once_dvc_has_recorded_the_very_artifact_and_no_others(project):
    md5 = lockfile.recorded_outputs((project / "dvc.lock").read_text())["data/three"]
    add_training(project, "finished", {"out": "data/three", "md5": md5})
    add_training(project, "other_artifact", {"out": "data/three", "md5": f"{'0' * 32}.dir"})
    add_training(project, "unknown_output", {"out": "data/four", "md5": md5})
    add_training(project, "unfinished")
    found = dict(line.partition("; ")[::2] for _, line in ask(project)["scratch"])
    states = {line.split(":")[0].rpartition("/")[2]: state for line, state in found.items()}
    assert states["finished"] == "finished and recorded by DVC → semtok doctor --fix"
    assert states["other_artifact"].startswith("finished; its stage resumes from it")
    assert states["unfinished"].startswith("unfinished; ")
    removed = [line for _, line in ask(project, "--fix")["removed"]]
    assert removed == ["scratch/decoder-x/finished: DVC has recorded its artifact"]
    left = sorted(path.name for path in (project / "scratch/decoder-x").iterdir())
    assert left == ["other_artifact", "unfinished", "unknown_output"]
    (project / "dvc.lock").unlink()
    assert cleanup.remove_accepted() == []


def test_dvcs_settings_are_those_that_are_committed(project):
    (project / ".dvc/config.local").write_text("[core]\n    autostage = true\n    hardlink_lock = true\n")
    assert ask(project)["dvc"] == [
        ("warn", "core.autostage is not false → dvc config core.autostage false"),
        ("warn", "core.hardlink_lock is on, which hides running DVC processes → dvc config core.hardlink_lock false"),
    ]  # fmt: skip


def test_without_dvc_it_fails_with_the_command(project):
    shutil.rmtree(project / ".dvc")
    found = ask(project, status=1)
    assert found["dvc"] == [("FAIL", "not initialized → dvc init")]
    assert not (project / ".dvc").exists()


def test_impossible_params_are_failures(project):
    tiny.add_check(project)
    assert ask(project)["params.yaml"] == [("ok", "every value is possible")]
    (project / "params.yaml").write_text(tiny.PARAMS.replace("seed: 0, rate", "seed: -1, rate").replace("0.5", "x"))
    assert ask(project, status=1)["params.yaml"] == [
        ("FAIL", "params.yaml: first.seed = -1: expected 0 or more → semtok set KEY=VALUE"),
        ("FAIL", "params.yaml: second.low = 'x': expected a number → semtok set KEY=VALUE"),
    ]


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(project, monkeypatch):
    monkeypatch.setattr(environment, "interpreter", lambda: 1 / 0)
    found = ask(project, status=1)
    assert found["python"] == [("FAIL", "ZeroDivisionError: division by zero")] and "prefect" in found


def test_runs_whose_process_is_gone_are_set_to_crashed_and_no_others(server, tmp_path, monkeypatch):
    def ask_forked(subject: str, code: str, fix: str) -> tuple[object, list[Finding]]:
        return json.loads(forks.run("python", f"import json\n{code}", root=tmp_path, **server.env).stdout), []

    monkeypatch.setattr(environment, "ask", ask_forked)
    host, dead = socket.gethostname(), subprocess.Popen(["true"])
    dead.wait()
    flow = server.ask("flows/", {"name": "semtok"})
    running = {"type": "RUNNING", "name": "Running"}

    def begin(*tags: str) -> str:
        run = server.ask("flow_runs/", {"flow_id": flow["id"], "tags": tags, "state": {"type": "PENDING"}})
        server.ask(f"flow_runs/{run['id']}/set_state", {"state": running, "force": True})
        return run["id"]

    def look(fix: bool) -> list[list[str]]:
        return [[finding.state, finding.text] for finding in environment.prefect_runs(fix)]

    look(fix=True)  # runs that other tests killed
    left = begin(f"pid:{dead.pid}", f"host:{host}")
    task = server.ask(
        "task_runs/", {"flow_run_id": left, "task_key": "x", "dynamic_key": "0", "name": "x", "state": running}
    )
    half = begin(f"pid:{dead.pid}", f"host:{host}")
    open_task = server.ask(
        "task_runs/", {"flow_run_id": half, "task_key": "x", "dynamic_key": "0", "name": "x", "state": running}
    )
    server.ask(f"flow_runs/{half}/set_state", {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True})
    others = [begin(f"pid:{os.getpid()}", f"host:{host}"), begin(f"pid:{dead.pid}", "host:elsewhere"), begin()]

    def state(kind: str, name: str) -> str:
        return server.ask(f"{kind}/{name}")["state"]["type"]

    [[word, text], [_, other]] = look(fix=False)
    assert word == "warn" and "Running, but its process has ended" in text and state("flow_runs", left) == "RUNNING"
    assert "Crashed, but tasks of it are open" in other, "the server's automation sets runs alone"
    [[word, text], _] = look(fix=True)
    assert word == "ok" and "set to Crashed" in text
    crashed = [state("flow_runs", left), state("task_runs", task["id"]), state("task_runs", open_task["id"])]
    assert crashed == ["CRASHED"] * 3
    assert {state("flow_runs", other) for other in others} == {"RUNNING"}
    assert "no run of a dead process" in look(fix=False)[0][1]


@pytest.mark.slow
def test_this_installation_is_in_order_and_nothing_waits_for_a_network(tmp_path_factory, tmp_path):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    begun = time.monotonic()
    env = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()", "doctor"]
    printed = run_in(command, root, **env).stdout
    assert time.monotonic() - begun < 60  # 7 s on two idle cores
    assert "k-means works on" in printed and "can start" in printed and "no server answers" in printed
