"""One stage as a Prefect task: what DVC says as logs, what the stage tells as artefacts, what DVC did as the state.

States: Completed (it ran), Cached (unchanged, or restored from DVC's cache; the message says which), Failed.
"""

from __future__ import annotations

import time
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from pipeline import repair
from pipeline.graph import Node
from pipeline.repro import Children, StageFailed
from pipeline.watch import Watcher

EVENTS = Path(".dvc/tmp/semtok/events")
LOOK_SECS = 1.0
SAID = {
    "unchanged": "DVC: nothing that this stage depends on has changed",
    "restored": "DVC: these inputs and params ran before; outputs restored from its cache",
}


@task(name="stage", cache_policy=NO_CACHE)
def run_stage(node: Node, fresh: bool, force: bool, env: dict[str, str], children: Children) -> State:
    """Let DVC run, restore or skip one stage; the state's message tells which."""
    started = time.monotonic()
    try:
        outcome = "unchanged" if fresh else repro(node, force, env, children)
    except StageFailed as error:
        return Failed(message=str(error))
    seconds = time.monotonic() - started
    children.outcomes[node.name] = (outcome, seconds)
    if outcome in SAID:
        return Completed(name="Cached", message=SAID[outcome])
    return Completed(message=f"ran {seconds:.1f} s")


def repro(node: Node, force: bool, env: dict[str, str], children: Children) -> str:
    """One `dvc repro --single-item`, its lines as logs and its events as artefacts; what DVC did."""
    log, events = get_run_logger(), EVENTS / f"{node.name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    events.unlink(missing_ok=True)
    watcher = Watcher(node, events, log)
    process = children.start(node.name, force=force, env={**env, "PIPELINE_EVENTS": str(events.absolute())})
    for line in process.lines(every_secs=LOOK_SECS):
        if line:
            log.info("%s", line)
        watcher.look()
    watcher.look()
    outcome = process.outcome()  # raises StageFailed
    repair.keep()
    watcher.reports()
    return outcome
