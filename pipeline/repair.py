"""What a killed process leaves half done, so that DVC fails or runs stages without cause: found and repaired.

    semtok run          repairs before it starts, and keeps a copy of dvc.lock after every stage
    semtok doctor       says what it finds; --fix repairs

DVC writes dvc.lock and .dvc/tmp/rwlock in place: killed meanwhile, it leaves a part that it cannot read. A run that is
killed as its entry in the run cache begins leaves an empty folder, over which that stage fails ever after.

A dvc.lock that DVC can read may still have lost its last lines. The copy can tell, but only while the file should have
grown from it: see `comparable`. Else the file is believed; what it lacks, DVC restores from its run cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import lockfile, locks
from pipeline.errors import PipelineError

LOCKFILE, WORK = Path("dvc.lock"), Path(".dvc/tmp/semtok")
KEPT, DAMAGED = WORK / "dvc.lock", WORK / "dvc.lock.damaged"
PLAN = (Path("dvc.yaml"), Path("params.yaml"))  # what decides which entries dvc.lock has, and of how many lines
EXPERIMENTS = Path(".dvc/tmp/exps")  # workspaces of `dvc queue start` and `dvc exp run --temp`, with locks of their own
CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.M)
UNFINISHED = re.compile(r".*\.[\w-]{22}\.tmp")  # how DVC names what it will rename when it is whole
REF_SECS = 60  # git holds a ref for moments
SHARED_SECS = 3600  # in a cache that others share, they may be at work on what is younger


@dataclass(frozen=True)
class Damage:
    """Something half done, what it is and what repairs it; `mend` says what it did."""

    what: str
    mend: Callable[[], str]


def keep() -> None:
    """Copy dvc.lock to where `heal` finds it, if it is whole; DVC may be writing it this moment."""
    text, kept = read(LOCKFILE), read(KEPT)
    if text != kept and not flaw(text, kept):
        write(KEPT, text)


def heal() -> list[str]:
    """Repair all damage, unless a DVC process is at work; what was done, in sentences."""
    if not Path(".dvc").is_dir():
        return []
    with locks.hold_dvc() as alone:
        return [damage.mend() for damage in find()] if alone else []


def find() -> list[Damage]:
    """All damage. Only true while DVC is kept out."""
    return [*damaged_claims(), *damaged_lockfile(), *begun_runs(), *unfinished_files(), *held_refs()]


def damaged_claims() -> list[Damage]:
    """DVC's file of claims, if it is cut off, or if the pid of a claim now is a zombie's or another process's."""
    import psutil

    try:
        blocking = [claim.pid for claim in locks.read_claims() if psutil.pid_exists(claim.pid)]
        why = f"names process {blocking[0]}, which is no DVC process any more" if blocking else ""
    except ValueError:
        why = "is cut off or damaged"

    def mend() -> str:
        locks.CLAIMS.unlink()
        return f"{locks.CLAIMS} {why}: removed; DVC makes a new one."

    return [Damage(f"{locks.CLAIMS} {why}", mend)] if why else []


def damaged_lockfile() -> list[Damage]:
    """dvc.lock, if it is not whole, or gone; `PipelineError` where it waits for somebody to end a merge."""
    text, kept = read(LOCKFILE), read(KEPT)
    if CONFLICT.search(text):
        raise PipelineError(
            f"{LOCKFILE} has the marks of a git merge conflict. Take one side: `git checkout --ours {LOCKFILE}`, or "
            "--theirs. What it then lacks, `semtok run` makes or restores."
        )
    if not LOCKFILE.exists():
        why = "is missing" if kept else ""
    else:
        why = flaw(text, kept)
    return [Damage(f"{LOCKFILE} {why}", lambda: mend_lockfile(text, kept, why))] if why else []


def flaw(text: str, kept: str) -> str:
    """Why this dvc.lock is not whole, empty if it is; what it lacks of the copy counts while the two are comparable."""
    unreadable = lockfile.flaw(text, "", set())
    lost = "" if unreadable else lockfile.loss(text, kept, stage_names())
    return lost if lost and comparable(text) else unreadable


def comparable(text: str) -> bool:
    """Whether dvc.lock should have all that the copy has: nobody has since edited the plan or taken git's dvc.lock."""
    return written(KEPT) > max(map(written, PLAN)) and text != git("show", f"HEAD:./{LOCKFILE}")


def mend_lockfile(text: str, kept: str, why: str) -> str:
    """Save the whole entries; the others come from the kept copy, else from git's last commit."""
    whole = lockfile.merge(text, kept or git("show", f"HEAD:./{LOCKFILE}"))
    if text:
        write(DAMAGED, text)
    if not whole:
        LOCKFILE.unlink()
        return f"{LOCKFILE} {why} and there is no copy: removed. DVC restores what its run cache has."
    write(LOCKFILE, whole)
    origin = "the copy of the last run" if kept else "the last commit"
    return f"{LOCKFILE} {why}: its whole entries are kept, the others are from {origin}. The old one is {DAMAGED}."


def begun_runs() -> list[Damage]:
    """Folders of DVC's run cache in which no entry was finished."""
    runs, _ = cache_folders()
    begun = [run for run in settled(runs.glob("*/*")) if run.is_dir() and all(map(is_unfinished, run.iterdir()))]

    def mend() -> str:
        for run in begun:
            shutil.rmtree(run)
        return f"{runs}: {len(begun)} begun entries removed, over which DVC would fail."

    return [Damage(f"{runs}: {len(begun)} begun entries, over which DVC fails", mend)] if begun else []


def unfinished_files() -> list[Damage]:
    """Files that DVC was writing: in its cache they waste space, beside outputs they make stages run again."""
    runs, files = cache_folders()
    outs = {Path(out).parent for out in lockfile.outputs_of(lockfile.merge(read(LOCKFILE), read(KEPT)))}
    folders = [*runs.glob("*/*"), files, *files.glob("??"), *outs]
    left = [
        path for path in settled(path for folder in folders for path in folder.glob("*.tmp")) if is_unfinished(path)
    ]

    def mend() -> str:
        for path in left:
            path.unlink(missing_ok=True)
        return f"removed {len(left)} files that DVC had begun to write, such as {left[0]}."

    return [Damage(f"{len(left)} files that DVC had begun to write, such as {left[0]}", mend)] if left else []


def held_refs() -> list[Damage]:
    """Git's locks on the refs of experiments, held by a `dvc exp run` that was killed; the next one fails over them."""
    place, old = Path(git("rev-parse", "--git-path", "refs/exps").strip() or "."), time.time() - REF_SECS
    held = [path for path in place.rglob("*.lock") if path.stat().st_mtime < old] if place.name == "exps" else []

    def mend() -> str:
        for path in held:
            path.unlink(missing_ok=True)
        return f"removed {', '.join(map(str, held))}, over which `dvc exp run` would fail."

    return [Damage(f"{', '.join(map(str, held))}: locks over which `dvc exp run` fails", mend)] if held else []


def is_unfinished(path: Path) -> bool:
    """Whether DVC would have renamed this when it was whole."""
    return UNFINISHED.fullmatch(path.name) is not None


def settled(paths: Iterable[Path]) -> Iterable[Path]:
    """Those that nobody can be writing: below this folder all if it has no experiments, else the older ones."""
    here, youngest = Path.cwd(), time.time_ns() - SHARED_SECS * 10**9
    alone = not any(EXPERIMENTS.glob("*"))
    return (path for path in paths if (alone and path.absolute().is_relative_to(here)) or 0 <= written(path) < youngest)


def cache_folders() -> tuple[Path, Path]:
    """Where DVC keeps the runs and the files; relative if that is in this folder."""
    from dvc.repo import Repo

    with Repo() as repo:
        return shortest(repo.stage_cache.cache_dir), shortest(repo.cache.local.path)


def shortest(path: str) -> Path:
    """The path from this folder, if it is inside."""
    return Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else Path(path)


def stage_names() -> set[str]:
    """The stages of dvc.yaml, a matrix under one name."""
    content = lockfile.parse(read(Path("dvc.yaml")))
    return {*content["stages"]} if isinstance(content, dict) and isinstance(content.get("stages"), dict) else set()


def written(path: Path) -> int:
    """When a file was last written, in nanoseconds; -1 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def git(*arguments: str) -> str:
    """What a git command prints, empty if it fails or there is no git."""
    if not shutil.which("git"):
        return ""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    return done.stdout if done.returncode == 0 else ""


def read(path: Path) -> str:
    """A file's text, empty if there is none; bytes that are no text are replaced."""
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def write(path: Path, text: str) -> None:
    """All at once: a reader sees the old text or the new one."""
    WORK.mkdir(parents=True, exist_ok=True)
    aside = WORK / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
    with open(aside, "w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
