"""A process's turn to run stages in this repository: nobody else has it, and DVC is asked at once what is stale.

begin()                       # `semtok run`, before it imports Prefect, which takes as long as DVC's answer
with only_run() as turn:      # the flow
    repaired, status = turn.plan()

A process of its own answers (pipeline/plan.py), so that this one never imports DVC if nothing is to be done.
"""

import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from pipeline.errors import PipelineError
from pipeline.files import WORK

LOCK = WORK / "lock"
PLANNER = ["-W", "ignore", "-m", "pipeline.plan"]


@dataclass
class Turn:
    """The lock of runs, which is held until the turn ends, and the process that plans the run."""

    lock: IO[str]
    planner: subprocess.Popen[bytes]

    def plan(self) -> tuple[list[str], Any]:
        """What was repaired, one sentence each, and the `Status` of all stages; raises what the planner raised."""
        answer, _ = self.planner.communicate()
        if not answer:
            raise RuntimeError(f"`python -m pipeline.plan` ended with status {self.planner.returncode}")
        plan = pickle.loads(answer)
        if isinstance(plan, Exception):
            raise plan
        return plan

    def end(self) -> None:
        """Stop the planner, and let others run."""
        with self.planner, self.lock:
            self.planner.kill()


BEGUN: list[Turn] = []  # the turn that this process has taken and the flow has not used yet


def begin() -> None:
    """Take the turn; if somebody else has it, the flow will say so."""
    with suppress(PipelineError):
        BEGUN.append(take())


@contextmanager
def only_run() -> Generator[Turn]:
    """The turn of this process; `PipelineError` at once if another run has it."""
    turn = BEGUN.pop() if BEGUN else take()
    try:
        yield turn
    finally:
        turn.end()


def take() -> Turn:
    """Lock this repository for runs and start to plan."""
    lock = lock_runs()
    command = [sys.executable, *PLANNER]
    env = {**os.environ, "PIPELINE_PARENT": str(os.getpid())}
    planner = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0)
    return Turn(lock, planner)  # whose process group Ctrl-C does not reach


def lock_runs() -> IO[str]:
    """The lock file with this process's pid, locked until it is closed."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    lock = open(LOCK, "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read() or "?"
        lock.close()
        raise PipelineError(
            f"`semtok run` is running here already (process {pid}): wait for it, or cancel it."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
