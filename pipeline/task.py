"""One stage as a Prefect task: DVC's output as logs, the stage's events as artifacts, DVC's decision as the state.

States: Completed (it ran), Cached (unchanged, or restored from DVC's cache; the message says which), Failed, Cancelled.
"""

import logging
import time
from concurrent.futures import Executor
from contextvars import copy_context
from importlib import import_module

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed, State

from pipeline.files import WORK
from pipeline.graph import Node
from pipeline.repro import GO_ON, Children, StageFailed
from pipeline.watch import POLL_SECS, Watcher

EVENTS = WORK / "events"
MESSAGES = {
    "unchanged": "DVC: nothing that this stage depends on has changed",
    "restored": "DVC: these inputs and params ran before; outputs restored from its cache",
}


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Prefect's about a task says what no other line says.

    The run lists what is Cached in one line. A failed task's last line has its message: the one before has it, too,
    and below it, since there is no exception, `NoneType: None`.
    """
    return record.exc_info != (None, None, None) and not record.getMessage().startswith("Finished in state Cached(")


logging.getLogger("prefect.task_runs").addFilter(is_news)


@task(name="stage", cache_policy=NO_CACHE)
def run_stage(node: Node, fresh: bool, force: bool, env: dict[str, str], children: Children, beside: Executor) -> State:
    """Let DVC run, restore or skip one stage; the state's message says which. `beside` publishes for skipped ones."""
    started, watcher = time.monotonic(), Watcher(node, EVENTS / f"{node.name}.jsonl", get_run_logger())
    try:
        outcome = "unchanged" if fresh else repro(node, force, env, children, watcher)
    except StageFailed as error:
        return Cancelled(message=f"ended with the run; {GO_ON}") if children.stopped else Failed(message=str(error))
    seconds = time.monotonic() - started
    children.outcomes[node.name] = (outcome, seconds)
    if outcome == "unchanged":
        beside.submit(copy_context().run, watcher.publish, watcher.metrics)  # its downstream need not wait for it
    else:
        watcher.publish(watcher.metrics)
        watcher.publish(watcher.curves)
    if outcome in MESSAGES:
        return Completed(name="Cached", message=MESSAGES[outcome])
    return Completed(message=f"ran {seconds:.1f} s")


def repro(node: Node, force: bool, env: dict[str, str], children: Children, watcher: Watcher) -> str:
    """One `dvc repro --single-item`, its lines as logs and its events as artifacts; what DVC did."""
    watcher.events.parent.mkdir(parents=True, exist_ok=True)
    watcher.events.unlink(missing_ok=True)
    events = str(watcher.events.absolute())
    child = children.start(node.address, force=force, env={**env, "PIPELINE_EVENTS": events})
    try:
        for line in child.lines(every_secs=POLL_SECS):
            if line:
                watcher.log.info("%s", line)
            watcher.poll()
        watcher.publish(watcher.newest_events)
        return child.outcome()
    except BaseException:
        child.stop()
        raise
    finally:
        import_module("pipeline.lockfile").keep_copies()
