"""What every stage's command promises: it ends with its parent, writes alone, tells its events, refuses a bad NPROC.

Run: uv run pytest tests/test_runtime.py
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import mini
import psutil
import pytest
import serving
import tiny

WIDE = """
import os, time
from pathlib import Path
from stages.core import runtime

def main():
    Path("rank-" + os.environ["RANK"]).write_text(os.environ["OMP_NUM_THREADS"])
    time.sleep(60)

if __name__ == "__main__":
    runtime.run(main, parallel=True)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = mini.build(tmp_path_factory.mktemp("runtime") / "project")
    (root / "stages/wide.py").write_text(WIDE)
    mini.write_params(root, first={"steps": 400})
    return root


def stage(root, name: str, **env: str) -> subprocess.Popen:
    """The command of a stage, as dvc.yaml has it."""
    command = [sys.executable, "-m", "stages.steps.run", name, "--out", f"data/{name}"]
    return subprocess.Popen(
        command, cwd=root, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("moment", ["as it starts", "as it works"])
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_ends_with_the_dvc_that_is_killed_above_it_whatever_shell_is_between(shell, moment, project):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "SHELL": shell, "PATH": path}
    command = [sys.executable, "-m", "dvc", "repro", "first"]
    with open(project / ".dvc/tmp/repro.log", "w") as log:
        dvc = subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log)
    ready = (project / "scratch/data-first").exists
    begun = serving.wait_for(lambda: (moment == "as it starts" or ready()) and stage_below(dvc), pause_secs=0.005)
    dvc.send_signal(signal.SIGKILL)
    assert dvc.wait() == -signal.SIGKILL
    serving.wait_for(lambda: not begun.is_running() or begun.status() == psutil.STATUS_ZOMBIE, secs=20)
    assert not serving.running(project, "-m stages.steps.run") and not (project / "data/first").exists()
    assert moment == "as it works" or not ready(), "it has worked without DVC"
    subprocess.run(["rm", "-rf", "scratch"], cwd=project, check=True)


def stage_below(dvc: subprocess.Popen) -> psutil.Process | None:
    """The stage that DVC has just started, before Python has imported anything."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(dvc.pid).children(recursive=True)
        return next((one for one in below if "stages.steps.run" in one.cmdline() and one.name() != "sh"), None)


def test_a_stage_whose_dvc_has_ended_begins_nothing_and_one_without_dvc_does(project):
    claims = project / ".dvc/tmp/rwlock"
    kept = claims.read_text()
    dead, ours = subprocess.Popen(["true"]), {"pid": os.getpid(), "cmd": "dvc repro"}
    dead.wait()
    for content, env, status in (
        ("{}", {"DVC_STAGE": "alone"}, 1),
        (json.dumps({"write": {"data/alone": {**ours, "pid": dead.pid}}}), {"DVC_STAGE": "alone"}, 1),
        (json.dumps({"write": {"data/alone": ours}}), {"DVC_STAGE": "alone"}, 0),
        (json.dumps({"read": {"stages": [ours]}}), {"DVC_STAGE": "alone"}, 0),
        ("{}", {"DVC_STAGE": "alone", "PIPELINE_PARENT": str(os.getpid())}, 0),
        ("{}", {"DVC_STAGE": "alone", "PIPELINE_PARENT": str(dead.pid)}, 1),
        ("{}", {}, 0),
    ):
        claims.write_text(content)
        command = [sys.executable, "-X", "importtime", "-m", "stages.steps.run", "alone", "--help"]
        done = subprocess.run(command, cwd=project, env={**os.environ, **env}, capture_output=True, text=True)
        assert done.returncode == status, (content, env, done.stderr)
        assert (status == 1) == ("the DVC process that started this stage has ended" in done.stderr)
        assert (status == 1) != ("stages.core" in done.stderr), "it ends before its imports"
    claims.write_text(kept)


def test_a_second_writer_of_the_same_output_is_refused_with_the_pid_of_the_first(project):
    with stage(project, "first") as first:
        try:
            serving.wait_for((project / "scratch/data-first").exists)
            with stage(project, "first") as second:
                said = second.stdout.read()
        finally:
            first.kill()
    assert second.returncode == 2 and f"data/first: process {first.pid} is writing it" in said


def test_progress_and_pictures_are_told_to_whoever_watches_and_to_nobody_else(project, tmp_path):
    told = tmp_path / "events.jsonl"
    for env in ({"PIPELINE_EVENTS": str(told)}, {}):
        with stage(project, "alone", **env) as done:
            assert "6/6" in done.stdout.read()
        assert done.returncode == 0
    *progress, picture = map(json.loads, told.read_text().splitlines())
    assert {event["kind"] for event in progress} == {"progress"} and progress[-1]["done"] == progress[-1]["total"] == 6
    assert progress[-1]["per_sec"] > 0 and (picture["kind"], picture["name"]) == ("picture", "squares")


def test_an_impossible_number_of_processes_is_refused(project):
    code = "import os; from stages.core.runtime import launcher_of; print(launcher_of(os.environ))"
    for count, said in (("0", "NPROC = '0': expected"), ("two", "NPROC = 'two': expected"), ("1", "[]")):
        env = {**os.environ, "NPROC": count}
        done = subprocess.run([sys.executable, "-c", code], cwd=project, env=env, capture_output=True, text=True)
        assert said in done.stdout + done.stderr


def wide(root, launcher: str | None = None, shell: bool = False, **env: str) -> subprocess.Popen:
    """A stage of several processes; with `shell` below a parent whose shell stays between them, as dash does."""
    command = [sys.executable, "-m", "stages.wide"]
    if shell:
        parent = "import os, subprocess, sys; os.environ['PIPELINE_PARENT'] = str(os.getpid()); "
        parent += "subprocess.run(sys.argv[1:])"
        command = [sys.executable, "-c", parent, "/bin/sh", "-c", f"{shlex.join(command)}; true"]
    env |= {"LAUNCHER": shlex.join([sys.executable, "-c", launcher])} if launcher else {}
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=root, env={**kept, **env}, **pipes)


def test_torchrun_and_its_processes_end_with_the_dvc_that_is_killed_above_a_shell(project):
    with wide(project, shell=True, NPROC="2", DVC_STAGE="wide") as dvc:
        serving.wait_for(lambda: len([*project.glob("rank-*")]) == 2)
        dvc.kill()
    serving.wait_for(lambda: not serving.running(project, "stages.wide"), secs=10)
    assert (project / "rank-1").read_text() == str(max(1, os.cpu_count() // 2))


@pytest.mark.parametrize(
    ("launcher", "status"), [("exit(3)", 3), ("exit()", 0), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_stage_ends_as_its_launcher_ends(launcher, status, project):
    with wide(project, launcher) as done:
        assert done.wait() == status


def test_a_launcher_hears_the_signals_that_the_stage_gets_and_chooses_its_own_threads(project):
    launcher = (
        "import os, signal, time\n"
        "for number in (2, 15): signal.signal(number, lambda number, _: exit(number))\n"
        "print(os.environ.get('OMP_NUM_THREADS'), flush=True); time.sleep(60)"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        with wide(project, launcher, NPROC="auto") as stage:
            assert stage.stdout.readline() == "None\n"
            stage.send_signal(number)
            assert stage.wait() == number


WHERE = """
import os
from pathlib import Path
from stages.core import runtime

def main():
    Path("where-" + os.environ["RANK"]).write_text(f"{os.environ['GROUP_RANK']} of {os.environ['WORLD_SIZE']}")

if __name__ == "__main__":
    runtime.run(main, parallel=True)
"""
ON_TWO_NODES = {  # what the example calls; a node is a process group of this machine
    "scontrol": "echo localhost; echo other",
    "srun": 'for node in 0 1; do "$@" & pids="$pids $!"; done; for pid in $pids; do wait $pid || exit 1; done',
    "uv": 'shift; exec "$@"',
}


@pytest.mark.slow
def test_the_slurm_example_runs_a_stage_on_all_nodes(project):
    (project / "stages/where.py").write_text(WHERE)
    (project / "dvc.yaml").write_text("stages: {where: {cmd: python -m stages.where, outs: [where-0, where-1]}}")
    (project / "bin").mkdir()
    for name, text in ON_TWO_NODES.items():
        (project / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (project / "bin" / name).chmod(0o755)
    path = f"{project / 'bin'}{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": str(os.getpid())}
    mini.run(["bash", str(mini.ROOT / "docs/slurm.sh"), "where"], project, **{**slurm, "PATH": path})
    assert sorted((project / f"where-{rank}").read_text() for rank in (0, 1)) == ["0 of 2", "1 of 2"]


@pytest.mark.parametrize("keeper", ["stages.core.runtime", "pipeline.cli"])
def test_bytecode_that_may_not_lie_beside_sources_is_kept_in_the_environment(keeper, tmp_path):
    (tmp_path / "heavy.py").write_text("")
    script = f"import sys; from {keeper} import keep_bytecode; keep_bytecode(); import heavy; print(heavy.__cached__)"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPYCACHEPREFIX"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(tiny.ROOT)])
    kept = subprocess.run([sys.executable, "-B", "-c", script], env=env, capture_output=True, text=True, check=True)
    path = Path(kept.stdout.strip())
    assert path.is_relative_to(f"{sys.prefix}/bytecode{tmp_path}") and path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["heavy.py"]
    path.unlink()


def test_freed_memory_is_kept_so_that_the_next_step_takes_no_page_faults():
    script = (
        "import resource, stages.core.runtime as runtime; runtime.keep_memory(); faults = []\n"
        "for _ in range(20):\n"
        "    blocks = [bytearray(8 * 2**20) for _ in range(4)]; del blocks\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(faults[0], faults[-1] - faults[9])"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=tiny.ROOT, capture_output=True, text=True, check=True)
    first, later = map(int, said.stdout.split())
    assert first > 1000 and later < 100
