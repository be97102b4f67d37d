"""Flow runs on the Prefect server: tag a run, ask if it is cancelled, end those of dead processes."""

import logging
import os
import socket
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId, TaskRunFilter
from prefect.context import FlowRunContext
from prefect.states import Crashed, Running

from pipeline import beats, server
from pipeline.files import git
from pipeline.finding import Finding

FLOW = "semtok"
FIX = "semtok doctor --fix"


def tags_of_process() -> list[str]:
    """Where a run comes from: folder, branch and commit; and pid and host, by which `semtok doctor` finds dead runs."""
    facts = {"folder": str(Path.cwd()), "branch": git("rev-parse", "--abbrev-ref", "HEAD").strip()}
    facts |= {"commit": git("rev-parse", "--short", "HEAD").strip(), "pid": str(os.getpid())}
    facts["host"] = socket.gethostname()
    return [beats.TAG, *(f"{name}:{value}" for name, value in facts.items() if value)]


def tag_run() -> UUID:
    """Tag the current run, unless it was begun with these tags; its id."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    run, tags = context.flow_run, {*context.flow_run.tags, *tags_of_process()}
    if tags != {*run.tags}:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, tags=sorted(tags))
    return run.id


def is_cancelled() -> bool:
    """Whether the current run is being cancelled; False if the server cannot be asked.

    A run that was called Crashed, since its machine slept, is set to Running again: this process lives.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not server.answers():
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(context.flow_run.id).state
            if state is not None and state.is_crashed():
                client.set_flow_run_state(context.flow_run.id, Running(message="its process goes on"), force=True)
    except Exception as error:  # a stage must not fail because the server does
        logging.getLogger(__name__).debug("the server does not answer: %s", error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def dead_runs(fix: bool) -> list[Finding]:
    """Runs that the server believes alive although their process has ended."""
    if not server.answers():
        why = f"no server answers at {server.api_url()}: needed for `semtok run`, not for `dvc repro`"
        return [Finding("warn", "prefect", why, "semtok ui")]
    with get_client(sync_client=True) as client:
        dead = [run for run in open_runs(client) if has_ended(run)]
        for run in dead if fix else []:
            set_to_crashed(client, run)
    if not dead:
        return [Finding("ok", "prefect", f"a server answers at {server.api_url()}; no run of a dead process")]
    done = "set to Crashed, its process has ended"
    if fix:
        return [Finding("ok", "repaired", f"flow run {run.name}: {done}") for run in dead]
    why = {False: "its process has ended", True: "tasks of it are open"}
    texts = [f"flow run {run.name}: {run.state_name}, but {why[run.state.is_final()]}" for run in dead]
    return [Finding("warn", "prefect", text, FIX) for text in texts]


def open_runs(client: SyncPrefectClient) -> list[Any]:
    """Runs of our flow that have begun and not ended, and crashed ones whose tasks have not: the automation of
    beats.py sets flow runs alone."""
    ours = FlowFilter(name=FlowFilterName(any_=[FLOW]))
    begun, crashed = (
        FlowRunFilter.model_validate({"state": {"type": {"any_": types}}})
        for types in (["RUNNING", "PENDING", "CANCELLING"], ["CRASHED"])
    )
    going = TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
    half_open = client.read_flow_runs(flow_filter=ours, flow_run_filter=crashed, task_run_filter=going)
    return [*client.read_flow_runs(flow_filter=ours, flow_run_filter=begun), *half_open]


def has_ended(run: Any) -> bool:
    """Whether the run's tags name a process of this machine that is gone."""
    tags = dict(tag.split(":", 1) for tag in run.tags if ":" in tag)
    if tags.get("host") != socket.gethostname() or not tags.get("pid", "").isdecimal():
        return False
    try:
        born = psutil.Process(int(tags["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    return run.start_time is not None and born > run.start_time.timestamp()


def set_to_crashed(client: SyncPrefectClient, run: Any) -> None:
    """Set a run, and its tasks that have not ended, to Crashed."""
    crashed = Crashed(message="its process had ended; found by `semtok doctor`")
    for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))):
        if task.state is not None and not task.state.is_final():
            client.set_task_run_state(task.id, crashed, force=True)
    if not run.state.is_final():
        client.set_flow_run_state(run.id, crashed, force=True)
