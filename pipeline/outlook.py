"""What DVC says of every stage at this moment, without waiting for DVC processes that are at work.

`dvc status` stops at the first path that is in use, and DVC's lock may be held for minutes while it hashes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import lockfile, locks, repair
from pipeline.errors import PipelineError
from pipeline.graph import Node, reach, read_graph, reverse

if TYPE_CHECKING:
    from dvc.repo import Repo

TRIES, PAUSE_SECS = 5, 0.2  # DVC writes dvc.lock in place: for a moment a reader sees half of it


@dataclass(frozen=True)
class Outlook:
    """All stages, by name."""

    nodes: dict[str, Node]
    reasons: dict[str, list[str]]  # why it is stale; up-to-date stages are absent
    running: dict[str, int]  # the pid of what writes its outputs
    unknown: set[str]  # DVC cannot tell, because its inputs or outputs are in use
    reads: dict[str, list[str]]  # keys of params.yaml, such as `codebook` or `samples.ar`

    def frozen(self) -> set[str]:
        """The stages that never run, whatever changes."""
        return {name for name, node in self.nodes.items() if node.frozen}

    def late(self) -> set[str]:
        """All that is stale, runs now, or is made from what is."""
        return reach({*self.reasons, *self.running} - self.frozen(), self.downstream())

    def downstream(self) -> dict[str, set[str]]:
        """What runs again after each stage; a frozen one never does."""
        return reverse({name: {*node.waits_for} for name, node in self.nodes.items()})


def look() -> Outlook:
    """Ask DVC about every stage, one by one, so that one that runs does not hide the others."""
    with readable_repo() as repo:
        nodes = read_graph(repo)
        stages = {stage.addressing: stage for stage in repo.index.stages}
        written = locks.written_now()
        writers = {name: locks.writer_of([out.def_path for out in stages[name].outs], written) for name in nodes}
        running = {name: pid for name, pid in writers.items() if pid}
        reads = {name: [key for params in stages[name].params for key in params.params] for name in nodes}
        reasons, unknown = ask(repo, stages)
    return Outlook(nodes, reasons, running, unknown, reads)


@contextmanager
def readable_repo() -> Generator[Repo]:
    """The DVC repository around the working directory; `PipelineError` where its files cannot be read."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            wait_until_whole(repo)
            yield repo
    except DvcException as error:
        raise PipelineError(f"DVC cannot read this repository: {' '.join(str(error).split())}") from None


def wait_until_whole(repo: Repo) -> None:
    """Read the graph; again, where DVC was writing dvc.lock the first time. `PipelineError` where nobody ends that."""
    from dvc.exceptions import DvcException

    for _ in range(TRIES):
        try:
            repo.index.graph  # noqa: B018
        except DvcException:
            if not lock_flaw():
                raise
        if not lock_flaw():
            return
        time.sleep(PAUSE_SECS)
        repo._reset()
    raise PipelineError(f"dvc.lock {lock_flaw()}: a DVC process was killed. `semtok doctor --fix` repairs it")


def lock_flaw() -> str:
    """What is wrong with dvc.lock, empty if nothing."""
    text = repair.read(repair.LOCKFILE)
    return lockfile.flaw(text, "", set()) if repair.LOCKFILE.exists() else ""


def ask(repo: Repo, stages: dict[str, Any]) -> tuple[dict[str, list[str]], set[str]]:
    """Why stages are stale, and of which DVC cannot tell."""
    from dvc.lock import LockError

    reasons, unknown = {}, set()
    try:
        with repo.lock:
            for name, stage in stages.items():
                try:
                    reasons[name] = why(stage)
                except LockError:
                    unknown.add(name)
    except LockError:
        return {}, {*stages}
    return {name: lines for name, lines in reasons.items() if lines}, unknown


def why(stage: Any) -> list[str]:
    """DVC's reasons; of a section of params.yaml the very values, which come first, and code last."""
    if stage.deps and not any(dep.hash_info for dep in stage.deps):
        return ["no run of it is recorded"]
    reasons = [reason for entry in stage.status().get(stage.addressing, []) for reason in explain(entry)]
    values = [line for params in stage.params for line in differences(params)]
    said = {f"{key} modified" for line in values for key in prefixes(line.split(" ")[0])}
    others = sorted((reason for reason in reasons if reason not in said), key=lambda reason: ".py " in reason)
    return [*(values if reasons else []), *others]


def explain(entry: Any) -> list[str]:
    """One entry of `dvc status` in words: `codebook.kmeans.num_codes modified`, `data/images deleted`."""
    if isinstance(entry, str):
        return [entry]
    found = []
    for path, state in (pair for part in entry.values() for pair in part.items()):
        detail = state.items() if isinstance(state, dict) else [(path, state)]
        found += [f"{key} {what}" for key, what in detail]
    return found


def differences(params: Any) -> list[str]:
    """`codebook.kmeans.num_codes 256 -> 512` for each value that differs from the one dvc.lock records."""
    then, now = flat(params.hash_info.value or {}), flat(params.read_params(flatten=False))
    return [f"{key} {then[key]} -> {now[key]}" for key in then if key in now and repr(then[key]) != repr(now[key])]


def prefixes(key: str) -> list[str]:
    """`a.b.c` and all that contain it: a, a.b, a.b.c."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
