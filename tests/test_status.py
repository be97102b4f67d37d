"""`semtok status` agrees with `dvc status`, and works while DVC or a stage is running.

Run: uv run pytest tests/test_status.py
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time

import pytest
import tiny

from pipeline import dvc_locks, dvc_status, status

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
HOLD = (
    "import fcntl, time; lock = open({!r}, 'a'); fcntl.flock(lock, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def project(tmp_path_factory, tmp_path):
    return tiny.project(tmp_path_factory, tmp_path / "project")


def table(printed: str) -> dict[str, tuple[str, str]]:
    """State and the rest of the line, by stage."""
    rows = printed.split("\n\n")[0].splitlines()[1:]
    return {row.split()[0]: tuple(re.split(r"  +", f"{row}  ", maxsplit=2)[1:]) for row in rows}


def advice(printed: str) -> str:
    return printed.rstrip().splitlines()[-1]


@contextlib.contextmanager
def process(*command: str, cwd=None):
    """A process that has printed a line."""
    with subprocess.Popen([sys.executable, "-c", *command], cwd=cwd, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


def test_dvc_parses_params_once_for_all_stages(project, monkeypatch):
    parsed, whole = [], dvc_status.serialize.load_path
    monkeypatch.chdir(project)
    monkeypatch.setattr(
        dvc_status.serialize, "load_path", lambda path, fs, **options: parsed.append(path) or whole(path, fs, **options)
    )
    assert len(dvc_status.read_status().nodes) == 5
    assert parsed.count(str(project / "params.yaml")) == 1


def test_all_is_up_to_date_and_in_the_order_of_the_graph(project):
    printed = tiny.semtok(project, "status")
    states = table(printed)
    names = [*states]
    assert {name: state for name, (state, _) in states.items()} == {
        "one": "up to date", "frozen": "frozen", "two@p": "up to date", "two@q": "up to date", "three": "up to date",
    }  # fmt: skip
    assert names.index("one") < names.index("two@p") < names.index("three") > names.index("frozen")
    assert advice(printed) == "everything is up to date"


def test_what_is_stale_what_waits_and_why(project):
    tiny.semtok(project, "set", "second.p.color=green")
    printed = tiny.semtok(project, "status")
    states = table(printed)
    assert states["two@p"] == ("stale", "second.p.color red -> green  ") and states["two@q"][0] == "up to date"
    assert states["three"] == ("waits", "")
    assert advice(printed).startswith(
        "`semtok run` runs the stale stages (1), or restores them from cache, then those waiting (1)"
    )


def test_many_reasons_are_counted_and_lines_fit(project):
    (project / "source.txt").write_text("8\n")
    (project / "data/one").unlink()
    tiny.semtok(project, "set", "first.seed=5", "first.rate=0.5", f"second.q.color={'long ' * 40}")
    printed = tiny.semtok(project, "status")
    assert "first.seed 0 -> 5, first.rate 0.001 -> 0.5, +2 more" in table(printed)["one"][1]
    assert max(map(len, printed.splitlines())) <= 120
    assert table(printed)["two@q"][1].rstrip().endswith("…")


def test_code_comes_last_among_the_reasons():
    assert status.shorten(["a 1 -> 2", "b.py modified", "c.py modified"], 40) == "a 1 -> 2, b.py modified, +1 more"
    assert status.shorten(["a 1 -> 2", "b.py modified"], 20) == "a 1 -> 2, +1 more"
    assert status.shorten(["a" * 30], 10) == "a" * 9 + "…"
    assert status.shorten([], 10) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7000, "1.9 h")])
def test_the_last_duration_is_shown(seconds, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status.last_duration("one") == ""
    (tmp_path / "scratch/durations").mkdir(parents=True)
    (tmp_path / "scratch/durations/one.json").write_text(json.dumps({"stage": "one", "seconds": seconds}))
    assert status.last_duration("one") == text
    (tmp_path / "scratch/durations/one.json").write_text("{")
    assert status.last_duration("one") == ""


def test_while_dvc_works_nothing_is_waited_for_and_nothing_breaks(project, monkeypatch):
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.5)
    with process(HOLD.format(str(project / ".dvc/tmp/lock"))):
        printed = tiny.semtok(project, "status")
        edited = tiny.semtok(project, "set", "second.p.color=green")
    assert {state for state, _ in table(printed).values()} == {"in use", "frozen"}
    assert advice(printed).startswith("a DVC process is running")
    assert re.findall(r"^  (\S+)  ", edited, re.M) == ["two@p", "three"]


def test_while_a_stage_runs_it_is_named_and_what_follows_waits(project):
    text = (project / "dvc.yaml").read_text().replace("cmd: mkdir -p data && cp", "cmd: sleep 30 && cp")
    (project / "dvc.yaml").write_text(text)
    dvc = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dvc", "repro", "-q"], cwd=project, start_new_session=True
    )
    try:
        wait_for(lambda: not (project / "data/one").exists() and b"write" in (project / ".dvc/tmp/rwlock").read_bytes())
        printed = tiny.semtok(project, "status")
        edited = tiny.semtok(project, "set", "first.seed=3")
    finally:
        os.killpg(dvc.pid, 9)
        dvc.wait()
    states = {name: state for name, (state, _) in table(printed).items()}
    assert states == {"one": "running", "frozen": "frozen", "two@p": "waits", "two@q": "waits", "three": "waits"}
    assert advice(printed).startswith("a run is in progress")
    assert "running with the old value, so its result will not be recorded: one" in edited
    assert table(tiny.semtok(project, "status"))["one"][0] == "stale", "its claim has died with it"


def test_a_stage_that_runs_does_not_hide_why_others_are_stale(project):
    text = (project / "dvc.yaml").read_text().replace("cmd: mkdir -p data/three && cp", "cmd: sleep 30 && cp")
    (project / "dvc.yaml").write_text(text)
    tiny.semtok(project, "set", "second.p.color=green")
    command = [sys.executable, "-W", "ignore", "-m", "dvc", "repro", "-q", "--single-item", "three"]
    dvc = subprocess.Popen(command, cwd=project, start_new_session=True)
    try:
        wait_for(
            lambda: not (project / "data/three").exists() and b"write" in (project / ".dvc/tmp/rwlock").read_bytes()
        )
        states = table(tiny.semtok(project, "status"))
    finally:
        os.killpg(dvc.pid, 9)
        dvc.wait()
    assert {name: state for name, (state, _) in states.items()} == {
        "one": "up to date", "frozen": "frozen", "two@p": "stale", "two@q": "up to date", "three": "running",
    }  # fmt: skip
    assert "second.p.color red -> green" in states["two@p"][1]


def test_nothing_waits_for_a_frozen_stage(project):
    text = (project / "dvc.yaml").read_text().replace("cmd: cp data/one shipped.txt", "cmd: cp -p data/one shipped.txt")
    (project / "dvc.yaml").write_text(text)
    states = table(tiny.semtok(project, "status"))
    assert states["frozen"] == ("frozen", "changed command  ") and states["three"][0] == "up to date"
    assert "No stage reruns for this." in tiny.semtok(project, "set", "shipped.seed=1")


def test_nothing_waits_for_a_check_of_params_unless_more_than_params_has_changed(project):
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(
        text.replace("    desc: the first\n", "    desc: the first\n    meta: {prefect: {checks_params: true}}\n")
    )
    edited = tiny.semtok(project, "set", "first.seed=1")
    assert tiny.stages_in(edited) == ["one"]
    states = {name: state for name, (state, _) in table(tiny.semtok(project, "status")).items()}
    assert states == {
        "one": "stale", "frozen": "frozen", "two@p": "up to date", "two@q": "up to date", "three": "up to date",
    }  # fmt: skip
    (project / "source.txt").write_text("8\n")
    assert table(tiny.semtok(project, "status"))["two@p"][0] == "waits"


def wait_for(condition) -> None:
    """Until it holds, for a minute."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_stage_that_runs_without_dvc_is_known_by_its_own_lock(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "scratch/locks").mkdir(parents=True)
    with process("print(1, flush=True); import time; time.sleep(60)", "--out", "data/two/p") as running:
        (project / "scratch/locks/data-two-p").write_text(str(running.pid))
        (project / "scratch/locks/data-two-q").write_text(str(running.pid))  # of another output: the pid is used again
        claims = {str(project / "data/one"): [{"pid": running.pid, "cmd": "x --out data/two/p"}]}  # it only reads this
        dvc_locks.CLAIMS.write_text(json.dumps({"read": claims}))
        assert dvc_locks.writers() == {"data-two-p": running.pid}
        assert table(tiny.semtok(project, "status"))["two@p"][0] == "running"
    assert dvc_locks.writers() == {}


@pytest.mark.parametrize(
    ("output", "expected"),
    [("data/a", 1), ("data/a/inner", 1), ("reports/x/pictures", 2), ("data/b", None), ("data", None)],
)
def test_an_output_is_written_if_it_or_a_folder_around_it_is(output, expected):
    assert dvc_locks.writer_of(output, {"data/a": 1, "reports-x": 2}) == expected


@pytest.mark.parametrize("end", ["", "schema: '2.", "hash: m"])
def test_a_broken_lockfile_is_an_error_that_says_what_to_do(project, end, monkeypatch):
    monkeypatch.setattr("pipeline.dvc_status.PAUSE_SECS", 0.01)
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text[: text.index(end) + len(end)])
    printed = tiny.semtok(project, "status", status=2)
    assert printed.startswith("error: dvc.lock is ") and "`semtok doctor --fix`" in printed


def test_a_dvc_yaml_that_dvc_cannot_read_is_an_error_of_one_line(project):
    (project / "dvc.yaml").write_text("stages: 3\n")
    printed = tiny.semtok(project, "status", status=2)
    assert printed.startswith("error: DVC cannot read this repository: ") and printed.count("\n") == 1
