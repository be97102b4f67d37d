"""The flow from the command line: `semtok run`."""

import os
import sys
from typing import Any, NoReturn

import httpx
from prefect import tags
from prefect.settings import temporary_settings

from pipeline import server
from pipeline.errors import PipelineError
from pipeline.flow import semtok
from pipeline.flow_runs import tags_of_process


def main(targets: list[str], **options: Any) -> int:
    """One flow run in this process; its exit status."""
    print(f"watch it at {server.ui_url()}", flush=True)
    flow: Any = semtok
    try:
        # Prefect's heartbeats, whose thread may sleep for a second after the run's end, are replaced by beats.py's.
        with temporary_settings({"flows.heartbeat_frequency": None}), tags(*tags_of_process()):
            state = flow(targets=targets, **options, return_state=True)
    except httpx.TransportError:
        exit_without_server()
    if state.is_cancelled():
        print(state.message, file=sys.stderr)
    if state.name == "Refused":
        raise PipelineError(state.message)
    return 130 if state.is_cancelled() else 0 if state.is_completed() else 1


def exit_without_server() -> NoReturn:
    """End at once: Prefect would try for minutes to deliver its last events."""
    print(
        f"error: the Prefect server at {server.api_url()} has gone. What the stages finished is recorded by DVC: start "
        "a server with `semtok ui`, then `semtok run` continues from there.",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
