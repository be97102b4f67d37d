"""Runs that are started in the UI: by `semtok serve`, and by a worker of a work pool; each can be cancelled there.

Run: uv run pytest -m slow tests/test_serve.py
"""

import shutil
import signal
import sys

import mini
import pytest
import serving

pytestmark = pytest.mark.slow

PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture
def project(tmp_path):
    root = mini.build(tmp_path / "project")
    shutil.copytree(mini.ROOT / "pipeline", root / "pipeline")  # a worker loads the flow from the folder it serves
    return root


@pytest.mark.parametrize("way", ["serve", "worker"])
def test_a_stage_is_run_and_cancelled_from_the_ui(way, project, server):
    if way == "serve":
        name, command = "here", [*serving.SEMTOK, "serve"]
    else:
        name, command = "pool", [*PREFECT, "worker", "start", "--pool", "pool", "--type", "process"]
        mini.run([*PREFECT, "work-pool", "create", "--type", "process", "pool"], project, **server.env)
        mini.run([*serving.SEMTOK, "serve", "--pool", "pool"], project, **server.env)
    with serving.background(command, project, server):
        known = serving.wait_for(lambda: server.deployment(name))
        one = server.start_run(known, targets=["left"])
        serving.wait_for(lambda: server.state_of(one) == "Completed")
        assert server.task_runs(one).keys() == {"code", "first", "left"}
        assert (project / "data/left").is_dir() and not (project / "data/join").exists()
        mini.write_params(project, left={"steps": 4000})
        other = server.start_run(known, targets=["left"], single=True)
        serving.wait_for(lambda: serving.running(project, "stages.steps.run"))
        server.ask(f"flow_runs/{other}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        serving.wait_for(lambda: server.state_of(other) == "Cancelled")
        serving.wait_for(lambda: not serving.running(project, "stages.steps.run"))
        serving.wait_for(lambda: not serving.running(project, "pipeline.dvc_process"))


def test_the_end_of_semtok_serve_is_the_end_of_its_runs(project, server):
    mini.write_params(project, left={"steps": 4000})
    with serving.background([*serving.SEMTOK, "serve"], project, server) as serve:
        server.start_run(serving.wait_for(lambda: server.deployment("here")), targets=["left"])
        serving.wait_for(lambda: serving.running(project, "stages.steps.run left"))
    assert serve.returncode != -signal.SIGKILL, "it did not end by itself"
    serving.wait_for(lambda: not serving.processes(project))
