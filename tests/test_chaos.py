"""Whatever is killed, whenever: no process survives, `semtok run` completes, and gives the bytes of an undisturbed run.

Run: uv run pytest -s tests/test_chaos.py             two kinds once, at random moments (CHAOS_SEED=N for others)
     uv run pytest -s -m slow tests/test_chaos.py     all kinds five times; 12 minutes
Expect: one line a round, at the end how many rounds held.
"""

import hashlib
import os
import random
import signal
import subprocess
import time

import forks
import mini
import pytest
import serving

SEED = int(os.environ.get("CHAOS_SEED", "0"))
PATIENCE_SECS = 300  # on a busy machine, a run of seconds takes minutes
RUN = ["run", "join", "--jobs", "2"]
KINDS = [
    "stage SIGKILL",
    "dvc SIGKILL",
    "flow SIGKILL",
    "server SIGKILL",
    "flow SIGTERM",
    "flow Ctrl-C",
    "cancel in UI",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, server):
    """A project, the hashes of its undisturbed outputs, and a server that may be killed: it is started again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by all children too
    root = mini.build(tmp_path_factory.mktemp("chaos") / "project")
    mini.dvc(root, "repro", "join")
    expected = outputs(root)
    return root, expected, server


def outputs(root) -> dict[str, str]:
    """sha256 of all that the stages leave."""
    files = [path for top in ("data", "reports") for path in (root / top).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shown(root) -> dict[str, str]:
    """Those that are not hidden: what is being written is, until it is whole and renamed."""
    return {name: sha for name, sha in outputs(root).items() if "/." not in name}


def forget(root) -> None:
    """Make everything stale: outputs, dvc.lock and DVC's cache are gone."""
    for name in ("data", "reports", ".dvc/cache", ".dvc/tmp/semtok", "scratch", "dvc.lock", "studies/dvc.lock"):
        subprocess.run(["rm", "-rf", str(root / name)], check=True)


def disturb(kind: str, flow: subprocess.Popen, root, server: serving.Server) -> bool:
    """Do it; where the victim is not there at this moment, wait for it. False: the run ended without one."""
    if kind.startswith("flow"):
        flow.send_signal({"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}[kind[5:]])
    elif kind == "server SIGKILL":
        server.kill()
    elif kind == "cancel in UI":
        run = server.newest_run()
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
        server.ask(f"flow_runs/{run['id']}/set_state", body)
    else:
        word = {"stage SIGKILL": "stages.steps.run", "dvc SIGKILL": "pipeline.dvc_process"}[kind]
        while not (victim := serving.running(root, word)):
            if flow.poll() is not None:
                return False
            time.sleep(0.01)
        victim.kill()
    return True


def disturbed(kind: str, after_secs: float, root, expected: dict[str, str], server: serving.Server) -> int | None:
    """The status of a run from nothing, disturbed; None where its work was done before the moment came."""
    forget(root)
    command, env = [*serving.SEMTOK, *RUN], {**os.environ, **server.env}
    with open(root / ".dvc/tmp/first.log", "w") as log:
        flow = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log, start_new_session=True)
        while not (root / "scratch").exists() and flow.poll() is None:  # the first stage has begun
            time.sleep(0.02)
        time.sleep(after_secs)
        assert flow.poll() in (None, 0), "the run failed before it was disturbed"
        in_time = shown(root).keys() < expected.keys() and disturb(kind, flow, root, server)
        status = flow.wait(PATIENCE_SECS)
    return status if in_time else None


def survive(kind: str, after_secs: float, root, expected: dict[str, str], server: serving.Server) -> None:
    """One round: start, disturb, look for survivors, run again, compare."""
    while (status := disturbed(kind, after_secs, root, expected, server)) is None:
        after_secs /= 2  # a fast machine ended its work before
        assert after_secs > 0.01, "no moment is early enough"
    assert status != 0, "the disturbance did not land"
    give_up = time.monotonic() + 20
    while (left := serving.processes(root)) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert not left, [process.cmdline() for process in left]
    assert shown(root).items() <= expected.items(), "something is half-written"
    if kind == "server SIGKILL":
        server.start()
    again = forks.run("semtok", *RUN, root=root, **server.env)
    assert again.returncode == 0, (root / ".dvc/tmp/first.log").read_text() + again.stdout + again.stderr
    assert outputs(root) == expected
    assert mini.status(root).keys() == {"last", "alone"}, "those that were not asked for"
    print(f"{kind} after {after_secs:.2f} s: flow ended with {status}, survived", flush=True)


def rounds(kinds: list[str], place) -> None:
    """Survive each kind of end, at random moments; say how many rounds held."""
    rng = random.Random(SEED)
    for kind in kinds:
        survive(kind, rng.uniform(0, 6), *place)
    print(f"\n{len(kinds)} of {len(kinds)} rounds held")


@pytest.mark.slow
def test_a_killed_dvc_and_a_killed_flow_leave_no_process_and_the_next_run_completes_to_the_same_bytes(place):
    rounds(["dvc SIGKILL", "flow SIGKILL"], place)


@pytest.mark.slow
def test_every_kind_of_end_at_five_random_moments(place):
    rounds(KINDS * 5, place)
