"""This flow run, as the server has it."""

from __future__ import annotations

import logging
import os
import socket

from prefect import get_client
from prefect.context import FlowRunContext

from pipeline import server


def sign() -> None:
    """Tag the run with its process, so that `semtok doctor` can tell a dead one."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    tags = [*context.flow_run.tags, f"pid:{os.getpid()}", f"host:{socket.gethostname()}"]
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, tags=tags)


def cancelling() -> bool:
    """Whether the server holds this run to be cancelled; no, if it cannot be asked."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not server.answers():
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(context.flow_run.id).state
    except Exception as error:  # a stage must not die with the server
        logging.getLogger(__name__).debug("the server does not answer: %s", error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
