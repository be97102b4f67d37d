"""Which processes use this repository: DVC's lock, the paths that DVC processes have claimed, the locks of stages.

DVC holds .dvc/tmp/lock while it reads and writes its files, not while the command of a stage runs. Meanwhile
.dvc/tmp/rwlock lists the paths of that stage with DVC's pid. A stage also locks a file in scratch/locks/, which holds
the pid of the stage and is named after its output: `data-images` for data/images.
"""

import fcntl
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from dvc.rwlock import SCHEMA
from voluptuous import Invalid

DVC_LOCK = Path(".dvc/tmp/lock")
CLAIMS, CLAIMS_LOCK = Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/rwlock.lock")
STAGE_LOCKS = Path("scratch/locks")
OURS = threading.Lock()  # two threads would refuse each other the file locks


@dataclass(frozen=True)
class Claim:
    """A path that a DVC process reads or writes."""

    path: str
    pid: int
    command: str
    writes: bool

    def is_alive(self) -> bool:
        """Whether the pid still belongs to the process that made the claim. Pids are reused; a zombie has no words."""
        words = words_of(self.pid)
        return words is None or bool(words) and {*self.command.split()[1:]} <= {*words}


def read_claims() -> list[Claim]:
    """All claims, of living and dead processes; `ValueError` if DVC could not read its file, which stops DVC."""
    if not CLAIMS.is_file():
        return []
    try:
        content = SCHEMA(json.loads(CLAIMS.read_bytes()))
    except Invalid as error:
        raise ValueError(f"{CLAIMS}: {error}") from None
    writers = [(path, owner, True) for path, owner in content["write"].items()]
    readers = [(path, owner, False) for path, owners in content["read"].items() for owner in owners]
    return [Claim(path, int(owner["pid"]), owner["cmd"], writes) for path, owner, writes in writers + readers]


def claims_now() -> list[Claim]:
    """Claims of living processes; none if the file cannot be read, since DVC may be writing it."""
    try:
        return [claim for claim in read_claims() if claim.is_alive()]
    except ValueError:
        return []


def words_of(pid: int) -> list[str] | None:
    """The words of a process's command line; none if there is no such process, None if it may not be read."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).split()
    except (psutil.NoSuchProcess, ValueError):
        return []
    except psutil.AccessDenied:
        return None


def writers() -> dict[str, int]:
    """The pid of the writer, for every path that is being written and every name of a stage's lock that is held."""
    here = f"{Path.cwd()}{os.sep}"
    claimed = {claim.path.removeprefix(here): claim.pid for claim in claims_now() if claim.writes}
    return claimed | {path.name: pid for path in STAGE_LOCKS.glob("*") if (pid := holder(path))}


def holder(lock: Path) -> int | None:
    """The living stage that holds a lock in scratch/locks/. The lock is only read, so that no stage finds it taken."""
    pid = lock.read_text(errors="replace").strip()
    if pid.isdecimal() and any(lock_name(word) == lock.name for word in words_of(int(pid)) or []):
        return int(pid)
    return None


def lock_name(output: str) -> str:
    """The name of the lock of the stage that writes `output`."""
    return output.strip("/").replace("/", "-")


def writer_of(output: str, writers: dict[str, int]) -> int | None:
    """The pid that writes an output, or a folder that contains it."""
    around = [output, *map(str, Path(output).parents)]
    return next((writers[name] for path in around for name in (path, lock_name(path)) if name in writers), None)


@contextmanager
def exclude_dvc() -> Generator[bool]:
    """Keep DVC out for the length of the block. False, and nothing is locked, if a DVC process is running."""
    DVC_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with OURS, open(DVC_LOCK, "a") as lock, open(CLAIMS_LOCK, "a") as claims_lock:
        yield try_lock(lock) and try_lock(claims_lock) and not claims_now()


def try_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed; False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
