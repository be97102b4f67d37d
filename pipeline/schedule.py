"""Run stages as tasks in the order of the graph, several at once, each on its share of GPUs and cores.

A task is submitted when its upstreams have ended, not earlier: waiting tasks would occupy the threads of others.
"""

import os
import queue
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from prefect.futures import PrefectFuture
from prefect.states import State

from pipeline.errors import PipelineError
from pipeline.flow_runs import is_cancelled
from pipeline.gpus import Gpus
from pipeline.graph import Node
from pipeline.repro import Children
from pipeline.stale import Status
from pipeline.task import run_stage

POLL_SECS = 1.0
PUBLISHERS = 8  # threads that send artifacts of unchanged stages


class CancelledInUi(Exception):
    """The user pressed Cancel."""


def read_status() -> Status:
    """Ask DVC, which is imported when the first stage has changed something."""
    return import_module("pipeline.dvc_status").read_status()


class Freshness:
    """Which stages DVC would skip. DVC is asked again once a stage has changed something, such as the hashes of the
    code: a downstream stage that is still up to date then needs no process of its own to find that out."""

    def __init__(self, status: Status, outcomes: dict[str, tuple[str, float]], ask: Callable[[], Status] = read_status):
        self.outcomes, self.ask = outcomes, ask
        self.stale, self.known = {*status.reasons, *status.unknown}, set[str]()

    def is_fresh(self, node: Node) -> bool:
        """Whether DVC would skip a stage whose upstreams have ended."""
        changed = {name for name, (outcome, _) in self.outcomes.items() if outcome != "unchanged"}
        if node.name not in self.stale and changed - self.known and changed & {*node.waits_for}:
            try:
                status = self.ask()
            except PipelineError:  # DVC itself says why, when it runs the stage
                return False
            self.stale, self.known = {*status.reasons, *status.unknown}, changed
        return node.name not in self.stale


@dataclass
class Run:
    """What the tasks of one run share."""

    nodes: dict[str, Node]
    freshness: Freshness
    force: bool
    jobs: int
    gpus: Gpus
    children: Children
    beside: Executor = field(default_factory=partial(ThreadPoolExecutor, PUBLISHERS))

    def execute(self) -> dict[str, State]:
        """Run each node as a task, at most `jobs` of those at once that DVC would not skip; their final states."""
        futures = dict[str, PrefectFuture]()
        try:
            self.submit_all(futures)
        except BaseException:  # interrupted: tasks that run become Cancelled before the run does
            self.children.stop()
            self.beside.shutdown(cancel_futures=True)
            raise
        finally:
            for future in futures.values():
                future.wait()  # until then its state is the server's, which may lag
        self.beside.shutdown()
        return {name: future.state for name, future in futures.items()}

    def submit_all(self, futures: dict[str, PrefectFuture]) -> None:
        """Submit each node once its upstreams have ended; return when all have ended."""
        todo, running, ended = dict(self.nodes), dict[str, list[str]](), queue.Queue()
        fresh = set[str]()
        while todo or running:
            for node in [node for node in todo.values() if self.is_ready(node, futures, running)]:
                if not self.force and self.freshness.is_fresh(node):
                    fresh.add(node.name)
                    running[node.name] = []
                elif len(running.keys() - fresh) < self.jobs and self.gpus.available(node.settings.gpus):
                    running[node.name] = self.gpus.acquire(node.settings.gpus)
                else:
                    continue
                futures[node.name] = self.submit(todo.pop(node.name), node.name in fresh, running[node.name], futures)
                futures[node.name].add_done_callback(lambda _, name=node.name: ended.put(name))
            self.gpus.release(running.pop(name := next_ended(ended)))
            if name not in fresh:
                import_module("pipeline.cleanup").remove_accepted()

    def is_ready(self, node: Node, futures: dict[str, Any], running: dict[str, Any]) -> bool:
        """Whether all upstreams of this run have ended."""
        return all(name in futures and name not in running for name in node.waits_for if name in self.nodes)

    def submit(self, node: Node, fresh: bool, gpus: list[str], futures: dict[str, PrefectFuture]) -> PrefectFuture:
        """Start the node's task; a failed upstream makes it NotReady."""
        env = self.gpus.env(gpus) | cores_env(self.jobs)
        return with_settings(node, self.children).submit(
            node, fresh, self.force, env, self.children, self.beside,
            wait_for=[futures[name] for name in node.waits_for if name in futures],
        )  # fmt: skip


def with_settings(node: Node, children: Children) -> Any:
    """The task of a node, named and retried as dvc.yaml says."""
    return run_stage.with_options(
        name=node.name, task_run_name=node.name, description=node.desc, tags=node.settings.tags or None,
        retries=node.settings.retries, retry_delay_seconds=node.settings.retry_delay_secs,
        retry_condition_fn=lambda *_: not children.stopped,
    )  # fmt: skip


def cores_env(jobs: int) -> dict[str, str]:
    """Environment that gives each of several stages its share of the cores, unless OMP_NUM_THREADS is set already."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}


def next_ended(ended: queue.Queue[str]) -> str:
    """The next task that ends; `CancelledInUi` if the run is cancelled meanwhile."""
    while True:
        try:
            return ended.get(timeout=POLL_SECS)
        except queue.Empty:
            if is_cancelled():
                raise CancelledInUi from None
