"""The flow from the UI: `semtok serve` runs it in this folder, or registers it for the workers of a work pool."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import psutil
from prefect.runner import Runner

from pipeline import server
from pipeline.errors import PipelineError
from pipeline.flow import semtok


def main(pool: str | None) -> int:
    """Run the flow here whenever the UI asks for it, until interrupted; with a pool, register it and end."""
    where = f"{server.ui_url()}/deployments: Run → Custom run takes targets and options"
    flow: Any = semtok
    if pool is None:
        print(f"start runs at {where}", flush=True)
        serve_here(flow)
    else:
        register(flow, pool)
        print(f"start a worker in this folder: prefect worker start --pool {pool}\nand runs at {where}")
    return 0


def serve_here(flow: Any) -> None:
    """Wait for runs until a signal."""
    runner: Any = EndingRunner(name="here", limit=1)
    runner.add_flow(flow, name="here")
    signal.signal(signal.SIGINT, runner.handle_sigterm)
    asyncio.run(runner.start())


def register(flow: Any, pool: str) -> None:
    """Deploy the flow of this folder to a work pool."""
    here = flow.from_source(source=str(Path.cwd()), entrypoint="pipeline/flow.py:semtok")
    try:
        here.deploy(name=pool, work_pool_name=pool, concurrency_limit=1, print_next_steps=False)
    except ValueError as error:
        raise PipelineError(f"{error} Create it: prefect work-pool create --type process {pool}") from None


class EndingRunner(Runner):
    """Ends the processes of its runs when it is ended itself; Prefect's own runner waits for them."""

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        """Called by Prefect on SIGTERM."""
        for child in psutil.Process().children():
            child.terminate()
        super().handle_sigterm(*args, **kwargs)
