"""The flow: every stage of DVC's graph as a Prefect task, independent stages side by side.

Run:    semtok run [TARGET…]              (semtok serve: the same from the UI)
Expect: one task run per stage, in state Cached if DVC had nothing to compute; a summary with links at the end.

DVC alone decides what is stale. A task only starts `dvc repro --single-item` and reports what it did, so `dvc repro`
gives the same result. Prefect's own cache is off: two caches could contradict each other.
"""

import fcntl
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from pipeline import lockfile, repair, summary
from pipeline.dvc_status import Status, read_status
from pipeline.errors import PipelineError
from pipeline.files import WORK
from pipeline.flow_runs import tag_with_process
from pipeline.gpus import Gpus
from pipeline.graph import select
from pipeline.params_check import find_errors
from pipeline.repro import Children
from pipeline.schedule import CancelledInUi, Freshness, Run

LOCK = WORK / "lock"


@flow(name="semtok", flow_run_name=lambda: run_name(flow_run.parameters))
def semtok(
    targets: list[str] | None = None,
    downstream: bool = False,
    single: bool = False,
    force: bool = False,
    jobs: int | None = None,
    per_gpu: int = 1,
) -> State:
    """Run what is stale of the targets (default: everything) and their upstream; with `downstream` the targets and
    their downstream, with `single` the targets alone; with `force` also what is up to date. At most `jobs` stages at
    once, `per_gpu` of them on one GPU (default: as many as the GPUs take, else 1)."""
    tag_with_process()
    children = Children()
    try:
        with only_run():
            return coordinate(targets or [], downstream, single, force, jobs, per_gpu, children)
    except PipelineError as error:
        return Failed(name="Refused", message=str(error))
    except CancelledInUi:
        children.stop()
        return Cancelled(message="cancelled in the UI; finished stages are recorded")
    except BaseException:
        children.stop()
        raise


def coordinate(
    targets: list[str], downstream: bool, single: bool, force: bool, jobs: int | None, per_gpu: int, children: Children
) -> State:
    """Select stages, run them, publish the summary."""
    check_counts(jobs=jobs, per_gpu=per_gpu)
    prepare()
    status = checked_status()
    nodes = select(status.nodes, targets, downstream, single)
    freshness, log = Freshness(status, children.outcomes), get_run_logger()
    up_to_date = [name for name in nodes if not force and name not in freshness.stale]
    log.info("%d stages, %d of them unchanged so far: %s", len(nodes), len(up_to_date), ", ".join(nodes))
    gpus = Gpus.detect(per_gpu)
    states = Run(nodes, freshness, force, jobs or max(1, gpus.slots), gpus, children).execute()
    text = summary.publish(nodes, states, children.outcomes, status.reasons)
    bad = [name for name, state in states.items() if not state.is_completed()]
    return Failed(message=f"{text}; not done: {', '.join(bad)}") if bad else Completed(message=text)


def check_counts(**counts: int | None) -> None:
    """Refuse 0 jobs and the like."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise PipelineError(f"{name} = {value}: expected 1 or more")


def prepare() -> None:
    """Fix what a killed process has left."""
    for sentence in repair.fix_issues():
        get_run_logger().warning("%s", sentence)
    lockfile.keep_copy()


def checked_status() -> Status:
    """The status of all stages; impossible params are refused, before the first stage runs. Both are asked at once."""
    with ThreadPoolExecutor(1) as beside:
        checked = beside.submit(find_errors)
        status = read_status()
    if errors := checked.result():
        raise PipelineError("\n".join(errors))
    return status


def run_name(parameters: dict[str, Any]) -> str:
    """The name of this run in the UI: targets, options, time."""
    targets = " ".join(parameters.get("targets") or ["everything"])
    options = [option for option in ("downstream", "single", "force") if parameters.get(option)]
    return f"{' '.join([targets, *options])} {datetime.now():%d %b %H:%M:%S}"


@contextmanager
def only_run() -> Generator[None]:
    """Hold this repository's lock for runs; `PipelineError` at once if another run holds it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with open(LOCK, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise PipelineError(
                f"`semtok run` is running here already (process {lock.read() or '?'}): wait for it, or cancel it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
