"""List unfinished artifacts and checkpoints of trainings, and remove those that are no longer needed.

    scratch/<task>/<key>/               checkpoints of one training; the key stands for its params, inputs and code
    scratch/<task>/<key>/published.json {"out": "data/decoder/x", "md5": …} once it has published its artifact

DVC deletes an output that it has not recorded before it runs the stage again, so checkpoints outlive publication.
"""

import json
import time
from pathlib import Path

from pipeline import dvc_locks, lockfile, repair
from pipeline.files import read
from pipeline.finding import Finding, human_size

SCRATCH, NO_TRAINING = Path("scratch"), ("locks", "durations", "trainings")  # the last: benchmarks/trainings.py
PUBLISHED = "published.json"
OLD_DAYS = 30
FIX = "semtok doctor --fix"


def accepted(folder: Path) -> bool:
    """Whether a dvc.lock records the very artifact that this training published, so that its checkpoints may go.

    An older entry of dvc.lock does not count: DVC may have been killed before it recorded the artifact. The stage
    itself applies the same rule when it runs again (stages/core/scratch.py).
    """
    if not (folder / PUBLISHED).is_file():
        return False
    try:
        published = json.loads((folder / PUBLISHED).read_bytes())
        recorded = lockfile.recorded_outputs(*map(read, lockfile.lockfiles()))
        return recorded.get(published["out"]) == published["md5"]
    except (ValueError, KeyError, TypeError):
        return False  # damaged: the stage publishes again


def remove_accepted() -> list[Path]:
    """Remove the checkpoints of trainings whose artifacts DVC has recorded; their folders."""
    return [repair.remove(path.parent) for path in sorted(SCRATCH.glob(f"*/*/{PUBLISHED}")) if accepted(path.parent)]


def partial_artifacts(fix: bool) -> list[Finding]:
    """What a killed stage was writing, or was replacing. Its next run removes it, if there is one."""
    folders = {folder for out in map(Path, repair.outputs()) for folder in (out, out.parent)}
    aside = sorted(path for folder in folders for end in ("partial", "old") for path in folder.glob(f".*.{end}"))
    writers = dvc_locks.writers()
    found = [path for path in aside if not dvc_locks.writer_of(str(path.with_name(path.stem[1:])), writers)]
    if fix:
        return [Finding("ok", "removed", f"{repair.remove(path)}, which no process writes") for path in found]
    return [Finding("warn", "unfinished", f"{path}: no process writes it", FIX) for path in found]


def checkpoints(fix: bool) -> list[Finding]:
    """One line per training: size, age, and the command that removes its checkpoints."""
    gone = remove_accepted() if fix else []
    removed = [Finding("ok", "removed", f"{path}: DVC has recorded its artifact") for path in gone]
    folders = [path for path in sorted(SCRATCH.glob("*/*")) if path.is_dir() and path.parts[1] not in NO_TRAINING]
    return [*removed, *map(describe, folders)] or [Finding("ok", "scratch", "no checkpoints")]


def describe(folder: Path) -> Finding:
    """Size, age and use of one folder of checkpoints."""
    facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
    days = (time.time() - max((fact.st_mtime for fact in facts), default=folder.stat().st_mtime)) / 86400
    age = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
    text = f"{folder}: {human_size(sum(fact.st_size for fact in facts))}, {age} old"
    if accepted(folder):
        return Finding("ok", "scratch", f"{text}; finished and recorded by DVC", FIX)
    state = "finished" if (folder / PUBLISHED).exists() else "unfinished"
    text = f"{text}; {state}; its stage resumes from it under the same params, inputs and code"
    return Finding("warn" if days > OLD_DAYS else "ok", "scratch", text, f"rm -r {folder}")
