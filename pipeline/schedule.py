"""Which stage when: each as a task, submitted when its upstreams are over, so many at once, on its share of GPUs.

Tasks are not all submitted at the start: those that wait would sit in the threads that others need.
"""

from __future__ import annotations

import os
import queue
from typing import Any

from prefect.futures import PrefectFuture
from prefect.states import State

from pipeline.gpus import Gpus
from pipeline.graph import Node
from pipeline.record import cancelling
from pipeline.repro import Children
from pipeline.task import run_stage

POLL_SECS = 1.0


class CancelledInUi(Exception):
    """Somebody pressed Cancel."""


def execute(
    nodes: dict[str, Node], fresh: set[str], force: bool, slots: int, gpus: Gpus, children: Children
) -> dict[str, State]:
    """Each node as a task, submitted when its upstreams are over, at most `slots` at once; their final states."""
    todo, given, over = dict(nodes), dict[str, list[str]](), queue.Queue()
    futures: dict[str, PrefectFuture] = {}
    while todo or given:
        for node in [node for node in todo.values() if is_ready(node, nodes, futures, given)]:
            if len(given) >= slots or not gpus.enough(node.settings.gpus):
                continue
            given[node.name] = gpus.take(node.settings.gpus)
            env = gpus.env(given[node.name]) | cores_env(slots)
            futures[node.name] = submit(todo.pop(node.name), node.name in fresh, force, env, children, futures)
            futures[node.name].add_done_callback(lambda _, name=node.name: over.put(name))
        gpus.give_back(given.pop(next_over(over)))
    for future in futures.values():
        future.wait()  # its state is the server's until then, which may lag
    return {name: future.state for name, future in futures.items()}


def cores_env(slots: int) -> dict[str, str]:
    """What tells each of several stages at once to use its share of the cores, unless the environment says how many."""
    if slots == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // slots))}


def is_ready(node: Node, nodes: dict[str, Node], futures: dict[str, Any], running: dict[str, Any]) -> bool:
    """Whether all upstreams in the plan are over."""
    return all(name in futures and name not in running for name in node.waits_for if name in nodes)


def submit(
    node: Node, fresh: bool, force: bool, env: dict[str, str], children: Children, futures: dict[str, PrefectFuture]
) -> PrefectFuture:
    """Start the node's task; a failed upstream makes it NotReady."""
    settings = node.settings
    named: Any = run_stage.with_options(
        name=node.name, task_run_name=node.name, description=node.desc, tags=settings.tags or None,
        retries=settings.retries, retry_delay_seconds=settings.retry_delay_secs,
        retry_condition_fn=lambda *_: not children.stopped,
    )  # fmt: skip
    return named.submit(
        node, fresh, force, env, children, wait_for=[futures[name] for name in node.waits_for if name in futures]
    )


def next_over(over: queue.Queue[str]) -> str:
    """The next task to end; `CancelledInUi` if the run is cancelled meanwhile."""
    while True:
        try:
            return over.get(timeout=POLL_SECS)
        except queue.Empty:
            if cancelling():
                raise CancelledInUi from None
