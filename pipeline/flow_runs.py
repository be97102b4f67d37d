"""Flow runs on the Prefect server: tag a run with its process, ask if it is cancelled, end those of dead processes."""

import logging
import os
import socket
from typing import Any

import psutil
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext
from prefect.states import Crashed

from pipeline import server
from pipeline.finding import Finding

FLOW = "semtok"
FIX = "semtok doctor --fix"


def tag_with_process() -> None:
    """Tag the current run with its pid and host, so that `semtok doctor` can detect that its process has died."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    tags = [*context.flow_run.tags, f"pid:{os.getpid()}", f"host:{socket.gethostname()}"]
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags=tags)


def is_cancelled() -> bool:
    """Whether the current run is being cancelled; False if the server cannot be asked."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not server.answers():
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(context.flow_run.id).state
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
    text = "flow run {run.name}: {run.state_name}, but its process has ended"
    return [Finding("warn", "prefect", text.format(run=run), FIX) for run in dead]


def open_runs(client: SyncPrefectClient) -> list[Any]:
    """Runs of our flow that have begun and not ended."""
    state = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter.model_validate({"state": state}),
    )


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
    client.set_flow_run_state(run.id, crashed, force=True)
