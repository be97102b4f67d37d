"""The flow: every stage of DVC's graph as a Prefect task, independent stages side by side.

Run:    semtok run [TARGET…]              (semtok serve: the same from the UI)
Expect: one task run per stage, in state Cached if DVC had nothing to compute; a summary with links at the end.

DVC alone decides what is stale. A task only starts `dvc repro --single-item` and reports what it did, so `dvc repro`
gives the same result. Prefect's own cache is off: two caches could contradict each other.
"""

import shlex
from collections.abc import Collection
from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.context import TagsContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from pipeline import summary
from pipeline.beats import beating
from pipeline.errors import PipelineError
from pipeline.flow_runs import tag_run
from pipeline.gpus import Gpus
from pipeline.graph import select
from pipeline.params_check import check_params
from pipeline.repro import Children
from pipeline.schedule import CancelledInUi, Freshness, Run
from pipeline.turn import Turn, only_run

OPTIONS = ("downstream", "single", "force")


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
    try:
        with beating(tag_run()), TagsContext(current_tags=set()), only_run() as turn:  # of tasks: those of dvc.yaml
            return coordinate(turn, targets or [], downstream, single, force, jobs, per_gpu)
    except PipelineError as error:
        return Failed(name="Refused", message=str(error))
    except (CancelledInUi, KeyboardInterrupt, TerminationSignal) as error:
        return Cancelled(message=f"{ENDED_BY[type(error)]} {how_to_go_on(flow_run.parameters)}")


ENDED_BY: dict[type[BaseException], str] = {
    CancelledInUi: "Cancelled on the page.",
    KeyboardInterrupt: "Ctrl-C.",
    TerminationSignal: "SIGTERM.",
}


def how_to_go_on(parameters: dict[str, Any]) -> str:
    """What is kept, and the command that continues a run."""
    options = [f"--{name}" for name in OPTIONS if parameters.get(name)]
    options += [f"--jobs {jobs}"] if (jobs := parameters.get("jobs")) else []
    options += [f"--per-gpu {per_gpu}"] if (per_gpu := parameters.get("per_gpu", 1)) != 1 else []
    command = " ".join(["semtok run", *map(shlex.quote, parameters.get("targets") or []), *options])
    return f"Stages that had ended are recorded, the others keep their checkpoints: `{command}` continues from there."


def coordinate(
    turn: Turn, targets: list[str], downstream: bool, single: bool, force: bool, jobs: int | None, per_gpu: int
) -> State:
    """Select stages, run them, publish the summary."""
    check_counts(jobs=jobs, per_gpu=per_gpu)
    log, (repaired, status), children = get_run_logger(), turn.plan(), Children()
    for sentence in repaired:
        log.warning("%s", sentence)
    nodes = select(status.nodes, targets, downstream, single)
    if force:
        check_params()
    freshness = Freshness(status, children.outcomes)
    log.info("%s", announcement([*nodes], [*nodes] if force else freshness.stale, status.affected()))
    gpus = Gpus.detect(per_gpu)
    states = Run(nodes, freshness, force, jobs or max(1, gpus.slots), gpus, children).execute()
    text = summary.publish(nodes, states, children.outcomes, status.reasons)
    bad = [name for name, state in states.items() if not state.is_completed()]
    return Failed(message=f"{text}; not done: {', '.join(bad)}") if bad else Completed(message=text)


def announcement(names: list[str], stale: Collection[str], affected: Collection[str]) -> str:
    """The run's first line: which stages will run, and which may, since something upstream of them does."""
    runs = [name for name in names if name in stale]
    waits = [name for name in names if name in affected and name not in stale] if runs else []
    parts = [f"{len(names)} stages, {len(names) - len(runs) - len(waits)} of them up to date"]
    parts += [f"to run: {', '.join(runs)}"] if runs else []
    return "; ".join(parts + [f"then, if their inputs change: {', '.join(waits)}"] if waits else parts)


def check_counts(**counts: int | None) -> None:
    """Refuse 0 jobs and the like."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise PipelineError(f"{name} = {value}: expected 1 or more")


def run_name(parameters: dict[str, Any]) -> str:
    """The name of this run in the UI: targets, options, time."""
    targets = " ".join(parameters.get("targets") or ["everything"])
    options = [option for option in OPTIONS if parameters.get(option)]
    return f"{' '.join([targets, *options])} {datetime.now():%d %b %H:%M:%S}"
