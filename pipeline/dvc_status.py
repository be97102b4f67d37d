"""The status of every stage by DVC, without waiting for running DVC processes.

`dvc status` stops at the first path that is in use, and DVC's lock may be held for minutes while it hashes files.
"""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from dvc.dependency import param
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc.utils import serialize

from pipeline import dvc_locks, lockfile, repair
from pipeline.errors import PipelineError
from pipeline.files import everywhere, read
from pipeline.graph import name_of, path_of, read_graph
from pipeline.params_check import find_errors
from pipeline.stale import CHANGED, Status, flat

UNFORESEEN = (TypeError, ValueError, AttributeError, KeyError, AssertionError)  # by DVC, for odd values in params.yaml
TRIES, PAUSE_SECS = 5, 0.2  # DVC writes dvc.lock in place: for a moment it is not whole


def read_status() -> Status:
    """Ask DVC about each stage by itself, so that one that runs does not hide the others."""
    with params_parsed_once(), readable_repo() as repo:
        nodes = read_graph(repo)
        stages = {name_of(stage.addressing): stage for stage in repo.index.stages}
        writers = dvc_locks.writers()
        running = {
            name: pid
            for name in nodes
            for out in stages[name].outs
            if (pid := dvc_locks.writer_of(path_of(out), writers))
        }
        edited = {str(path) for path in everywhere("params.yaml")}
        params = {name: keys_of(stages[name], edited) for name in nodes}
        reasons, unknown = find_stale(repo, stages)
    return Status(nodes, reasons, running, unknown, params)


@contextmanager
def params_parsed_once() -> Generator[None]:
    """Inside, DVC parses a params file once. By itself it does so for each stage that reads it, a third of its time."""
    known: dict[tuple[str, int, int], Any] = {}
    module: Any = param

    def load(path: str, fs: Any, **options: Any) -> Any:
        facts = os.stat(path)
        version = (path, facts.st_ino, facts.st_mtime_ns)
        if version not in known:
            known[version] = serialize.load_path(path, fs, **options)
        return known[version]

    module.load_path = load
    try:
        yield
    finally:
        module.load_path = serialize.load_path


def keys_of(stage: Any, files: set[str]) -> list[str]:
    """The keys that a stage reads in these files."""
    return [key for params in stage.params if path_of(params) in files for key in params.params]


@contextmanager
def readable_repo() -> Generator[Repo]:
    """The DVC repository of the working directory; `PipelineError` if DVC cannot read its files or their values."""
    try:
        with Repo() as repo:
            wait_for_lockfile(repo)
            yield repo
    except SCMError as error:
        raise repair.without_git(error) from None
    except (DvcException, *UNFORESEEN) as error:
        if errors := find_errors():  # they name the key, as DVC does not
            raise PipelineError("\n".join(errors)) from None
        if isinstance(error, UNFORESEEN):
            raise
        raise PipelineError(f"DVC cannot read this repository: {' '.join(str(error).split())}") from None


def wait_for_lockfile(repo: Repo) -> None:
    """Read the graph, again if DVC was writing dvc.lock; `PipelineError` if dvc.lock stays unreadable."""
    for _ in range(TRIES):
        try:
            repo.index.graph  # noqa: B018
        except DvcException:
            if not lockfile_problem():
                raise
        except UNFORESEEN:
            raise PipelineError("\n".join(find_errors()) or "DVC cannot fill params.yaml into dvc.yaml") from None
        if not lockfile_problem():
            return
        time.sleep(PAUSE_SECS)
        repo._reset()
    raise PipelineError(f"{lockfile_problem()}: a DVC process was killed. `semtok doctor --fix` repairs it")


def lockfile_problem() -> str:
    """Which dvc.lock DVC cannot use, and why; empty if it can use all that exist."""
    reasons = {lock: lockfile.problem(read(lock)) for lock in lockfile.lockfiles() if lock.exists()}
    return next((f"{lock} {why}" for lock, why in reasons.items() if why), "")


def find_stale(repo: Repo, stages: dict[str, Any]) -> tuple[dict[str, list[str]], set[str]]:
    """The reasons of stale stages, and the stages that DVC cannot check."""
    reasons, unknown = {}, set()
    try:
        with repo.lock:
            for name, stage in stages.items():
                try:
                    reasons[name] = reasons_of(stage)
                except LockError:
                    unknown.add(name)
                except (OSError, UnicodeError) as error:  # such as a link that leads nowhere in a folder of images
                    reasons[name] = [f"DVC cannot compare its files: {error}"]
    except LockError:
        return {}, {*stages}
    return {name: lines for name, lines in reasons.items() if lines}, unknown


def reasons_of(stage: Any) -> list[str]:
    """DVC's reasons: changed values of params.yaml first, code last."""
    if stage.deps and not any(dep.hash_info for dep in stage.deps):
        return ["no run of it is recorded"]
    reasons = [reason for entry in stage.status().get(stage.addressing, []) for reason in in_words(entry)]
    if not reasons:
        return []
    values = [line for params in stage.params for line in changed_values(params)]
    keys = [line.split(" ")[0] for line in values]
    others = [reason for reason in reasons if not is_explained(reason, keys)]
    return [*values, *sorted(others, key=lambda reason: ".py " in reason or "data/code" in reason)]


def is_explained(reason: str, keys: list[str]) -> bool:
    """Whether a reason such as `codebook.kmeans modified` is explained in more detail by one of the changed keys."""
    section, _, word = reason.rpartition(" ")
    return word == "modified" and any(f"{key}.".startswith(f"{section}.") for key in keys)


def in_words(entry: Any) -> list[str]:
    """One entry of `dvc status`: `codebook.kmeans.num_codes modified`, `data/images deleted`."""
    if isinstance(entry, str):
        return [entry]
    found = []
    for path, state in (pair for part in entry.values() for pair in part.items()):
        detail = state.items() if isinstance(state, dict) else [(path, state)]
        found += [f"{key} {what}" for key, what in detail]
    return found


def changed_values(params: Any) -> list[str]:
    """`codebook.kmeans.num_codes 256 -> 512` for each value that differs from the one in dvc.lock."""
    then, now = flat(params.hash_info.value or {}), flat(params.read_params(flatten=False))
    return [f"{key} {then[key]}{CHANGED}{now[key]}" for key in then if key in now and repr(then[key]) != repr(now[key])]
