"""The flow: every stage of DVC's graph a Prefect task, side by side where they are independent.

Run:    semtok run [TARGET…]              (semtok serve: the same from the UI)
Expect: a task run a stage, state Cached where DVC did not have to compute; a summary with links at the end.

DVC alone decides what is stale. A task only starts `dvc repro --single-item` and tells what came of it, so `dvc repro`
gives the same result; Prefect's own cache is off, because two caches are two truths.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from pipeline import record, repair, summary
from pipeline.errors import PipelineError
from pipeline.gpus import Gpus
from pipeline.graph import Node, plan
from pipeline.outlook import look
from pipeline.repro import Children
from pipeline.schedule import CancelledInUi, execute

LOCK = Path(".dvc/tmp/semtok/lock")


@flow(name="semtok", flow_run_name=lambda: name_of(flow_run.parameters))
def semtok(
    targets: list[str] | None = None,
    downstream: bool = False,
    single: bool = False,
    force: bool = False,
    jobs: int | None = None,
    per_gpu: int = 1,
) -> State:
    """Run what is stale of the targets (default: everything) and what they need; with `downstream` the targets and
    what is made from them, with `single` the targets alone; with `force` also what is up to date. At most `jobs` stages
    at once, `per_gpu` of them on one GPU (default: as many as GPUs take, else 1)."""
    record.sign()
    children = Children()
    try:
        with sole_run():
            return coordinate(targets or [], downstream, single, force, jobs, per_gpu, children)
    except PipelineError as error:
        return Failed(name="Refused", message=str(error))
    except CancelledInUi:
        children.stop()
        return Cancelled(message="cancelled in the UI; what was finished is recorded")
    except BaseException:
        children.stop()
        raise


def coordinate(
    targets: list[str], downstream: bool, single: bool, force: bool, jobs: int | None, per_gpu: int, children: Children
) -> State:
    """Plan, run, sum up."""
    for name, value in {"jobs": jobs, "per_gpu": per_gpu}.items():
        if value is not None and value < 1:
            raise PipelineError(f"{name} = {value}: expected 1 or more")
    log = get_run_logger()
    for sentence in repair.heal():
        log.warning("%s", sentence)
    repair.keep()
    check_params()
    outlook = look()
    nodes = plan(outlook.nodes, targets, downstream, single)
    fresh = set() if force else still_fresh(nodes, {*outlook.reasons, *outlook.unknown})
    log.info("%d stages, %d of them up to date: %s", len(nodes), len(fresh), ", ".join(nodes))
    gpus = Gpus.found(per_gpu)
    states = execute(nodes, fresh, force, jobs or max(1, gpus.slots), gpus, children)
    text = summary.publish(nodes, states, children.outcomes, outlook.reasons)
    bad = [name for name, state in states.items() if not state.is_completed()]
    return Failed(message=f"{text}; not done: {', '.join(bad)}") if bad else Completed(message=text)


def name_of(parameters: dict[str, Any]) -> str:
    """What the UI calls this run: what was asked for, and when."""
    asked = " ".join(parameters.get("targets") or ["everything"])
    options = [option for option in ("downstream", "single", "force") if parameters.get(option)]
    return f"{' '.join([asked, *options])} {datetime.now():%d %b %H:%M:%S}"


@contextmanager
def sole_run() -> Generator[None]:
    """Hold this repository's lock for runs; `PipelineError` at once if another run holds it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with open(LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise PipelineError(
                f"`semtok run` is at work here already (process {lock.read() or '?'}): wait for it, or cancel it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def check_params() -> None:
    """Every section of params.yaml against the schema of its stage, before the first stage spends an hour."""
    if Path("stages/check.py").is_file():
        done = subprocess.run([sys.executable, "-m", "stages.check"], capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(done.stderr.strip().removeprefix("error: "))


def still_fresh(nodes: dict[str, Node], stale: set[str]) -> set[str]:
    """The nodes that DVC calls up to date and whose upstreams, as far as they are in the plan, are too."""
    fresh: set[str] = set()
    for name, node in nodes.items():
        if name not in stale and all(other in fresh for other in node.waits_for if other in nodes):
            fresh.add(name)
    return fresh
