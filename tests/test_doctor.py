"""`semtok doctor` finds what is wrong, says how to mend it, mends with --fix what a crash left, and never hangs.

Run: uv run pytest tests/test_doctor.py      (-m slow: all of it on this very installation)
"""

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import tiny
from mini import run as run_in

from pipeline import doctor, leftovers, locks, probes, repair, server
from pipeline.probes import Finding

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
SLOW = ("torch_gpus", "faiss_kmeans", "prefect_server")


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch):
    """Up to date, with what takes seconds left out."""
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    (root / ".dvc/config").write_text((tiny.ROOT / ".dvc/config").read_text() + "    no_scm = true\n")
    monkeypatch.chdir(root)
    repair.keep()
    for name in SLOW:
        monkeypatch.setattr(probes, name, list)
    monkeypatch.setattr(server, "answers", lambda: False)
    monkeypatch.setattr(server, "api_url", lambda: "http://127.0.0.1:1/api")
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
        "damage": ["ok"], "scratch": ["ok"], "prefect": ["warn"],
    }  # fmt: skip
    assert found["git"][0][1].endswith("→ git init") and found["prefect"][0][1].endswith("→ semtok ui")
    assert "MB, files come out as reflink or copy" in found["dvc cache"][1][1]
    assert "torch" in found["packages"][0][1] and "prefect" in found["packages"][0][1]


def test_a_cut_lockfile_and_damaged_claims_fail_until_they_are_fixed(project):
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[:300])
    locks.CLAIMS.write_text("{")
    found = ask(project, status=1)["damage"]
    assert [state for state, _ in found] == ["FAIL", "FAIL"] and all(
        "→ semtok doctor --fix" in line for _, line in found
    )
    assert (project / "dvc.lock").read_text() == text[:300], "nothing is changed without --fix"
    assert [state for state, _ in ask(project, "--fix")["repaired"]] == ["ok", "ok"]
    assert (project / "dvc.lock").read_text() == text and ask(project)["damage"][0][0] == "ok"


def test_a_merge_conflict_is_a_failure_that_names_the_command(project):
    (project / "dvc.lock").write_text("<<<<<<< HEAD\n")
    [(state, line)] = ask(project, "--fix", status=1)["dvc.lock"]
    assert state == "FAIL" and "git checkout --ours dvc.lock" in line


def test_while_dvc_is_at_work_nothing_is_looked_at(project):
    from dvc.lock import make_lock

    (project / "dvc.lock").write_text("")
    with make_lock(str(locks.DVC_LOCK)):
        assert ask(project, "--fix")["damage"] == [
            ("warn", "a DVC process is at work: look again when it has finished")
        ]
    assert (project / "dvc.lock").read_text() == ""


def test_unfinished_artefacts_without_a_writer_are_removed(project):
    for name in ("data/.one.partial", "data/two/.p.partial", "data/.other.partial"):
        (project / name).mkdir()
        (project / name / "part.bin").write_bytes(b"1")
    (project / "data/three/.x.json.partial").write_text("{")
    (project / "scratch/locks").mkdir(parents=True)
    code = "print(1, flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "data/two/p"], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (project / "scratch/locks/data-two-p").write_text(str(writer.pid))
        names = [line.split(":")[0] for _, line in ask(project)["unfinished"]]
        assert names == ["data/.one.partial", "data/.other.partial", "data/three/.x.json.partial"]
        assert len(ask(project, "--fix")["removed"]) == 3
        writer.kill()
    assert not (project / "data/.one.partial").exists() and (project / "data/two/.p.partial").exists()
    assert [line.split(":")[0] for _, line in ask(project)["unfinished"]] == ["data/two/.p.partial"]


def test_unfinished_work_is_listed_with_size_and_age(project):
    for task, days in (("features", 0.1), ("decoder-x", 40)):
        folder = project / "scratch" / task / "0123456789abcdef"
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(bytes(2_000_000))
        os.utime(folder / "state", (time.time() - days * 86400,) * 2)
    for no_work in ("durations", "trainings"):
        (project / "scratch" / no_work).mkdir()
    old, young = ask(project)["scratch"]
    assert old == ("warn", "scratch/decoder-x: 2.0 MB of unfinished work, 40 days old → rm -r scratch/decoder-x")
    assert young == ("ok", "scratch/features: 2.0 MB of unfinished work, 2 hours old; the same stage goes on from it")


def test_dvcs_settings_are_those_that_are_committed(project):
    (project / ".dvc/config.local").write_text("[core]\n    autostage = true\n    hardlink_lock = true\n")
    assert ask(project)["dvc"] == [
        ("warn", "core.autostage is not false → dvc config core.autostage false"),
        ("warn", "core.hardlink_lock is on: DVC at work cannot be seen → dvc config core.hardlink_lock false"),
    ]  # fmt: skip


def test_without_dvc_it_fails_with_the_command(project):
    shutil.rmtree(project / ".dvc")
    found = ask(project, status=1)
    assert found["dvc"] == [("FAIL", "not initialised → dvc init")]
    assert not (project / ".dvc").exists()


def test_impossible_params_are_failures(project):
    shutil.copytree(tiny.ROOT / "stages", "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(tiny.ROOT / "params.yaml", "params.yaml")
    assert doctor.params() == [Finding("ok", "params.yaml", "every value is possible")]
    text = (tiny.ROOT / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        text.replace("num_codes: 256", "num_codes: -1", 1).replace("views: 8", "views: x")
    )
    found = doctor.params()
    assert {finding.state for finding in found} == {"FAIL"}
    keys = [finding.text.split()[1] for finding in found]
    assert keys == ["codebook.kmeans.num_codes", "codebook.kmeans_random.num_codes", "tokens.views"]


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(project, monkeypatch):
    monkeypatch.setattr(probes, "interpreter", lambda: 1 / 0)
    found = ask(project, status=1)
    assert found["python"] == [("FAIL", "ZeroDivisionError: division by zero")] and "prefect" in found


def test_a_full_disk_is_warned_of(monkeypatch, tmp_path):
    monkeypatch.setattr(probes.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_234_000_000))
    [finding] = probes.disk({"data": tmp_path / "not/yet/there"})
    assert finding.state == "warn" and finding.text == "1.2 GB free" and "dvc gc" in finding.fix


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise TypeError('Body() got an unexpected argument')", "TypeError: Body() got an unexpected argument"),
        ("import os; os.abort()", "ended with status -6"),
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
        ("import no_such_package", "No module named 'no_such_package'"),
    ],
)  # fmt: skip
def test_a_package_that_breaks_hangs_or_crashes_is_a_failure_and_no_more(code, said, monkeypatch):
    monkeypatch.setattr(probes, "PROBE_SECS", 0.5 if "sleep" in code else 30)
    answer, [finding] = probes.ask("it", code, "uv sync")
    assert answer is None and finding.state == "FAIL" and said in finding.text and finding.fix == "uv sync"


@pytest.mark.parametrize(
    ("check", "gpus", "driver", "state", "said"),
    [
        (probes.torch_gpus, [], False, "ok", "no GPU"),
        (probes.torch_gpus, [], True, "warn", "torch sees no GPU"),
        (probes.torch_gpus, ["H200, 139 GiB"], True, "ok", "H200, 139 GiB"),
        (probes.faiss_kmeans, 0, False, "ok", "works on the CPU"),
        (probes.faiss_kmeans, 0, True, "warn", "faiss sees no GPU"),
        (probes.faiss_kmeans, 2, True, "ok", "works on 2 GPUs"),
    ],
)
def test_a_gpu_that_torch_or_faiss_does_not_see_is_warned_of(check, gpus, driver, state, said, monkeypatch):
    monkeypatch.setattr(probes, "ask", lambda *_: (gpus, []))
    monkeypatch.setattr(probes.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if driver else None)
    [finding] = check()
    assert finding.state == state and said in finding.text


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(probes, "installed", lambda name: "" if name in ("timm", "faiss-gpu") else "1.0")
    [finding] = probes.packages()
    assert (finding.state, finding.text, finding.fix) == ("FAIL", "not installed: timm", "uv sync")


def test_runs_whose_process_is_gone_are_set_to_crashed_and_no_others(server, tmp_path):
    host, dead = leftovers.socket.gethostname(), subprocess.Popen(["true"])
    dead.wait()
    flow = server.ask("flows/", {"name": "semtok"})
    running = {"type": "RUNNING", "name": "Running"}

    def begin(*tags: str) -> str:
        run = server.ask("flow_runs/", {"flow_id": flow["id"], "tags": tags, "state": {"type": "PENDING"}})
        server.ask(f"flow_runs/{run['id']}/set_state", {"state": running, "force": True})
        return run["id"]

    left = begin(f"pid:{dead.pid}", f"host:{host}")
    task = server.ask(
        "task_runs/", {"flow_run_id": left, "task_key": "x", "dynamic_key": "0", "name": "x", "state": running}
    )
    others = [begin(f"pid:{os.getpid()}", f"host:{host}"), begin(f"pid:{dead.pid}", "host:elsewhere"), begin()]

    def look(fix: bool) -> list[list[str]]:
        code = "import json; from pipeline import leftovers as l"
        code += f"; print(json.dumps([[f.state, f.text] for f in l.flow_runs({fix})]))"
        done = run_in([sys.executable, "-W", "ignore", "-c", code], tmp_path, PYTHONPATH=str(tiny.ROOT), **server.env)
        return json.loads(done.stdout)

    def state(kind: str, name: str) -> str:
        return server.ask(f"{kind}/{name}")["state"]["type"]

    [[word, text]] = look(fix=False)
    assert word == "warn" and "Running, but its process has ended" in text and state("flow_runs", left) == "RUNNING"
    [[word, text]] = look(fix=True)
    assert word == "ok" and "set to Crashed" in text
    assert state("flow_runs", left) == state("task_runs", task["id"]) == "CRASHED"
    assert {state("flow_runs", other) for other in others} == {"RUNNING"}
    assert "no run was left behind" in look(fix=False)[0][1]


@pytest.mark.slow
def test_this_installation_is_in_order_and_nothing_waits_for_a_network(tmp_path_factory, tmp_path):
    root = tiny.project(tmp_path_factory, tmp_path / "project")
    begun = time.monotonic()
    env = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()", "doctor"]
    printed = run_in(command, root, **env).stdout
    assert time.monotonic() - begun < 60  # 7 s on two idle cores
    assert "k-means works on" in printed and "can start" in printed and "no server answers" in printed
