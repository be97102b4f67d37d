"""What killed stages and killed runs have left that stops nothing: shown by `semtok doctor`, removed by its --fix."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import lockfile, locks, repair, server
from pipeline.probes import Finding, gigabytes

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FLOW = "semtok"
SCRATCH, NO_WORK = Path("scratch"), ("locks", "durations", "trainings")  # the last: benchmarks/trainings.py
OLD_DAYS = 30
FIX = "semtok doctor --fix"


def partials(fix: bool) -> list[Finding]:
    """Artefacts that a killed stage had begun to write. Its next run replaces them, if it ever has one."""
    known = lockfile.merge(repair.read(repair.LOCKFILE), repair.read(repair.KEPT))
    folders = {folder for out in map(Path, lockfile.outputs_of(known)) for folder in (out, out.parent)}
    written = locks.written_now()
    left = [
        path
        for path in sorted(path for folder in folders for path in folder.glob(".*.partial"))
        if not locks.writer_of([str(path.parent / path.name[1:].removesuffix(".partial"))], written)
    ]
    if fix:
        return [Finding("ok", "removed", f"{remove(path)}, which nobody writes") for path in left]
    return [Finding("warn", "unfinished", f"{path}: nobody writes it", FIX) for path in left]


def remove(path: Path) -> Path:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return path


def unfinished_work() -> list[Finding]:
    """Checkpoints and finished parts. The same stage goes on from them, under the same params, inputs and code."""
    tasks = [path for path in SCRATCH.glob("*") if path.is_dir() and path.name not in NO_WORK]
    if not tasks:
        return [Finding("ok", "scratch", "no unfinished work")]
    return [describe(task) for task in sorted(tasks)]


def describe(task: Path) -> Finding:
    """Size and age of one stage's unfinished work."""
    facts = [path.stat() for path in task.rglob("*") if path.is_file()]
    days = (time.time() - max((fact.st_mtime for fact in facts), default=task.stat().st_mtime)) / 86400
    age = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
    text = f"{task}: {gigabytes(sum(fact.st_size for fact in facts))} of unfinished work, {age} old"
    if days > OLD_DAYS:
        return Finding("warn", "scratch", text, f"rm -r {task}")
    return Finding("ok", "scratch", f"{text}; the same stage goes on from it")


def flow_runs(fix: bool) -> list[Finding]:
    """Runs that the Prefect server holds to be alive though their process has ended."""
    if not server.answers():
        why = f"no server answers at {server.api_url()}: needed for `semtok run`, not for `dvc repro`"
        return [Finding("warn", "prefect", why, "semtok ui")]
    from prefect import get_client

    with get_client(sync_client=True) as client:
        dead = [run for run in open_runs(client) if has_ended(run)]
        for run in dead if fix else []:
            crash(client, run)
    if not dead:
        return [Finding("ok", "prefect", f"a server answers at {server.api_url()}; no run was left behind")]
    if fix:
        return [
            Finding("ok", "repaired", f"flow run {run.name}: set to Crashed, its process has ended") for run in dead
        ]
    return [
        Finding("warn", "prefect", f"flow run {run.name}: {run.state_name}, but its process has ended", FIX)
        for run in dead
    ]


def open_runs(client: SyncPrefectClient) -> list[Any]:
    """Our flow's runs that have begun and not ended."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

    state = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter.model_validate({"state": state}),
    )


def has_ended(run: Any) -> bool:
    """Whether the run was begun by a process of this machine that is gone. The run's tags say which process."""
    import psutil

    tags = dict(tag.split(":", 1) for tag in run.tags if ":" in tag)
    if tags.get("host") != socket.gethostname() or not tags.get("pid", "").isdecimal():
        return False
    try:
        born = psutil.Process(int(tags["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    return run.start_time is not None and born > run.start_time.timestamp()


def crash(client: SyncPrefectClient, run: Any) -> None:
    """Set a run, and what it had begun, to Crashed."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Crashed

    gone = Crashed(message="its process had ended; found by `semtok doctor`")
    for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))):
        if task.state is not None and not task.state.is_final():
            client.set_task_run_state(task.id, gone, force=True)
    client.set_flow_run_state(run.id, gone, force=True)
