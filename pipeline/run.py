"""The flow from the command line (`semtok run`) and from the UI (`semtok serve`, here or by a work pool's worker)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import httpx
from prefect.runner import Runner

from pipeline import server
from pipeline.errors import PipelineError
from pipeline.flow import semtok


def run(targets: list[str], **options: Any) -> int:
    """One flow run in this process; its exit status."""
    print(f"watch it at {server.ui_url()}", flush=True)
    flow: Any = semtok
    try:
        state = flow(targets=targets, **options, return_state=True)
    except httpx.TransportError:
        leave_without_server()
    if state.name == "Refused":
        raise PipelineError(state.message)
    return 130 if state.is_cancelled() else 0 if state.is_completed() else 1


def leave_without_server() -> NoReturn:
    """End at once: Prefect would try for minutes to deliver what it still has to tell."""
    print(
        f"error: the Prefect server at {server.api_url()} has gone. What the stages finished is recorded by DVC: start "
        "a server with `semtok ui`, then `semtok run` goes on from there.",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def serve(pool: str | None) -> None:
    """Run the flow here whenever the UI asks for it, until interrupted; or leave that to the workers of a pool."""
    flow: Any = semtok
    where = f"{server.ui_url()}/deployments: Run → Custom run takes targets and options"
    if pool is None:
        print(f"start runs at {where}", flush=True)
        runner: Any = EndingRunner(name="here", limit=1)
        runner.add_flow(flow, name="here")
        signal.signal(signal.SIGINT, runner.handle_sigterm)
        asyncio.run(runner.start())
        return
    here = flow.from_source(source=str(Path.cwd()), entrypoint="pipeline/flow.py:semtok")
    try:
        here.deploy(name=pool, work_pool_name=pool, concurrency_limit=1, print_next_steps=False)
    except ValueError as error:
        raise PipelineError(f"{error} Make it: prefect work-pool create --type process {pool}") from None
    print(f"start a worker in this folder: prefect worker start --pool {pool}\nand runs at {where}")


class EndingRunner(Runner):
    """Ends the processes of its runs when it is ended itself, where Prefect's waits for them."""

    def handle_sigterm(self, *given: Any, **named: Any) -> None:
        """Prefect calls this when SIGTERM comes."""
        import psutil

        for child in psutil.Process().children():
            child.terminate()
        super().handle_sigterm(*given, **named)
