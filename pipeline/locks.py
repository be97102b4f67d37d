"""Who is at work in this repository: DVC's lock, the paths DVC's commands have claimed, the locks of the stages.

DVC holds `.dvc/tmp/lock` while it reads and writes its files, not while a stage's command runs; meanwhile the stage's
paths stand in `.dvc/tmp/rwlock` with the pid. A stage's own lock in scratch/locks/ holds the pid too, and is named like
what it writes: `data-images` for data/images.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DVC_LOCK = Path(".dvc/tmp/lock")
CLAIMS, CLAIMS_LOCK = Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/rwlock.lock")
STAGE_LOCKS = Path("scratch/locks")


@dataclass(frozen=True)
class Claim:
    """A path that a DVC process reads or writes."""

    path: str
    pid: int
    command: str
    writes: bool


def read_claims() -> list[Claim]:
    """All that stand in DVC's file, of living and dead processes; `ValueError` if it is damaged, which stops DVC."""
    if not CLAIMS.is_file():
        return []
    content = json.loads(CLAIMS.read_bytes())
    if not isinstance(content, dict) or content.keys() - {"read", "write"}:
        raise ValueError(f"{CLAIMS}: expected the keys read and write")
    try:
        writers = [(path, owner, True) for path, owner in content.get("write", {}).items()]
        readers = [(path, owner, False) for path, owners in content.get("read", {}).items() for owner in owners]
        return [Claim(path, int(owner["pid"]), str(owner["cmd"]), writes) for path, owner, writes in writers + readers]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{CLAIMS}: not what DVC writes: {error!r}") from None


def is_alive(claim: Claim) -> bool:
    """Whether the process still is the one that made the claim; pids are given out again, and a zombie does nothing."""
    words = words_of(claim.pid)
    return words is None or bool(words) and {*claim.command.split()[1:]} <= {*words}


def words_of(pid: int) -> list[str] | None:
    """The command line of a process; empty if there is no such process, None if it may not be read."""
    import psutil

    try:
        return " ".join(psutil.Process(pid).cmdline()).split()
    except (psutil.NoSuchProcess, ValueError):
        return []
    except psutil.AccessDenied:
        return None


def written_now() -> dict[str, int]:
    """The pid that writes it, for every path below the working directory that is being written, and for every name of a
    stage's lock that is held."""
    try:
        claims = read_claims()
    except ValueError:  # DVC may be writing it this moment
        claims = []
    here = f"{Path.cwd()}{os.sep}"
    taken = {claim.path.removeprefix(here): claim.pid for claim in claims if claim.writes and is_alive(claim)}
    return taken | {path.name: pid for path in STAGE_LOCKS.glob("*") if (pid := holder(path))}


def holder(lock: Path) -> int | None:
    """The living stage that holds a lock of scratch/locks/. The lock is not touched, lest a stage find it taken."""
    pid = lock.read_text().strip()
    if pid.isdecimal() and any(lock_name(word) == lock.name for word in words_of(int(pid)) or []):
        return int(pid)
    return None


def lock_name(output: str) -> str:
    """What the lock of the stage that writes `output` is called."""
    return output.strip("/").replace("/", "-")


def writer_of(outputs: Iterable[str], written: dict[str, int]) -> int | None:
    """The pid that writes one of these outputs, or a folder around it."""
    for output in outputs:
        around = [output, *map(str, Path(output).parents)]
        if found := [written[name] for path in around for name in (path, lock_name(path)) if name in written]:
            return found[0]
    return None


@contextmanager
def hold_dvc() -> Generator[bool]:
    """Keep DVC out for the length of the block. False, and nothing held, where a DVC process is at work already."""
    DVC_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with open(DVC_LOCK, "a") as lock, open(CLAIMS_LOCK, "a") as claims_lock:
        yield take(lock) and take(claims_lock) and not living_claims()


def take(lock: IO[str]) -> bool:
    """Lock an open file until it is closed, if nobody else has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def living_claims() -> list[Claim]:
    """Claims of living processes; none where the file is damaged."""
    try:
        return [claim for claim in read_claims() if is_alive(claim)]
    except ValueError:
        return []
