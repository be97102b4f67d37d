"""How a run ends that is interrupted or killed, as Prefect's API says it, and that it can be continued.

Run: uv run pytest tests/test_interrupted.py      (-m slow: killed ones, five minutes)
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import mini
import psutil
import pytest
import serving

from pipeline import beats

LONG = {"value": 3, "steps": 4000}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which everything before `left` ran, which would take minutes."""
    root = mini.build(tmp_path_factory.mktemp("interrupted") / "project")
    mini.dvc(root, "repro", "first")
    mini.write_params(root, left=LONG)
    return root


@contextmanager
def going(project, server) -> Iterator[subprocess.Popen]:
    """`semtok run left --single`, whose stage has a checkpoint; what it prints is in going.log."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by all children too
    command, env = [*serving.SEMTOK, "run", "left", "--single"], {**os.environ, **server.env}
    with open(project / ".dvc/tmp/going.log", "w") as log:
        flow = subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        serving.wait_for(lambda: flow.poll() is not None or has_begun(project))
        assert flow.poll() is None, printed(project)
        yield flow
    finally:
        flow.kill()
        flow.wait()
        serving.wait_for(lambda: not serving.processes(project))


def has_begun(project) -> bool:
    return serving.running(project, "stages.steps.run left") is not None and any(project.glob("scratch/**/state.json"))


def printed(project) -> str:
    return (project / ".dvc/tmp/going.log").read_text()


def states(server) -> tuple[dict, dict]:
    """Of the newest run, and of its task `left`."""
    run = server.newest_run()
    return run["state"], server.task_runs(run["id"])["left"]["state"]


@pytest.mark.parametrize(("sent", "word"), [(signal.SIGINT, "Ctrl-C."), (signal.SIGTERM, "SIGTERM.")])
def test_an_interrupted_run_and_its_task_are_cancelled_and_say_how_to_go_on(sent, word, project, server):
    with going(project, server) as flow:
        flow.send_signal(sent)
        assert flow.wait(60) == 130
        assert not serving.processes(project)
    run, task = states(server)
    assert run["type"] == task["type"] == "CANCELLED" and run["name"] == "Cancelled"
    assert run["message"].startswith(word) and "`semtok run left --single` continues" in run["message"]
    assert "continues from its last checkpoint" in task["message"]
    assert run["message"] in printed(project) and "NoneType" not in printed(project)


@pytest.mark.slow
def test_a_killed_stage_fails_its_run_with_what_happened(project, server):
    with going(project, server) as flow:
        serving.running(project, "stages.steps.run left").kill()
        assert flow.wait(60) == 1
    run, task = states(server)
    assert (run["type"], task["type"]) == ("FAILED", "FAILED") and "not done: left" in run["message"]
    assert task["message"].startswith("left: its process was killed") and "%|" not in task["message"]
    assert "NoneType" not in printed(project)


@pytest.mark.slow
def test_a_killed_run_is_crashed_in_two_minutes_without_a_command(project, server):
    with going(project, server) as flow:
        flow.kill()
        begun = time.monotonic()
    serving.wait_for(lambda: server.newest_run()["state"]["type"] == "CRASHED", secs=120, pause_secs=2)
    print(f"Crashed {time.monotonic() - begun:.0f} s after its end")
    assert server.newest_run()["state"]["message"] == beats.MESSAGE


@pytest.mark.slow
def test_a_live_run_is_never_crashed_and_a_stopped_one_runs_again_when_it_goes_on(project, server):
    with going(project, server) as flow:
        give_up = time.monotonic() + 2 * beats.SILENT_SECS
        while time.monotonic() < give_up:
            assert server.newest_run()["state"]["type"] == "RUNNING"
            time.sleep(3)
        psutil.Process(flow.pid).suspend()
        serving.wait_for(lambda: server.newest_run()["state"]["type"] == "CRASHED", secs=120, pause_secs=2)
        psutil.Process(flow.pid).resume()
        serving.wait_for(lambda: server.newest_run()["state"]["type"] == "RUNNING")
