"""dvc.lock beside each dvc.yaml: detect a file that was cut off, keep the last good copy, restore it.

DVC writes dvc.lock in place, so a process that is killed meanwhile leaves a truncated file. `semtok run` keeps copies
after every stage. A truncated file that DVC can read is no issue: DVC restores from its run cache what the file lacks.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvc.schema import COMPILED_LOCKFILE_SCHEMA as SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from pipeline.errors import PipelineError
from pipeline.files import WORK, everywhere, git, read, write

CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.M)


def lockfiles() -> list[Path]:
    """All of them, whether they exist or not."""
    return everywhere("dvc.lock")


def copy_of(lock: Path) -> Path:
    """Where the last good copy of a lock file is."""
    return WORK / lock


def problem(text: str) -> str:
    """Why DVC cannot use this dvc.lock; empty if it can."""
    if not text.strip():
        return "is empty"
    return "" if text.endswith("\n") and parse(text) else "is cut off or corrupt"


@lru_cache(maxsize=8)  # lock files and their copies
def parse(text: str) -> dict[str, Any]:
    """The stages of a dvc.lock by name, to be read only; empty if DVC cannot read it."""
    try:
        stages = SCHEMA(YAML(typ="safe").load(text)).get("stages", {})
    except (YAMLError, ValueError, Invalid):
        return {}
    paths = [path for stage in stages.values() for part in ("deps", "outs") for path in stage.get(part, [])]
    return stages if all(isinstance(path.get(path.get("hash", "path")), str) for path in paths) else {}


def recorded_outputs(*texts: str) -> dict[str, str]:
    """The path of every output of lock files, with the hash that DVC recorded."""
    outs = [out for text in texts for stage in parse(text).values() for out in stage.get("outs", [])]
    return {out["path"]: out.get(out.get("hash"), "") for out in outs}


def keep_copies() -> None:
    """Copy each lock file that is whole; DVC may be writing one at this moment."""
    for lock in lockfiles():
        text = read(lock)
        if text != read(copy_of(lock)) and not problem(text):
            write(copy_of(lock), text)


def find_problem(lock: Path) -> str:
    """Why a lock file needs repair; `PipelineError` if it has conflict markers of git."""
    text = read(lock)
    if CONFLICT.search(text):
        raise PipelineError(
            f"{lock} has conflict markers of a git merge. Take one side: `git checkout --ours {lock}`, or "
            "--theirs. `semtok run` computes or restores what it lacks."
        )
    if lock.exists():
        return problem(text)
    return "is missing" if copy_of(lock).exists() else ""


def restore(lock: Path) -> str:
    """Replace it by the last good copy or that of git's last commit, else remove it; return what was done."""
    text, why, broken = read(lock), find_problem(lock), WORK / f"{lock}.broken"
    if text:
        write(broken, text)
    sources = {"the copy of the last run": read(copy_of(lock)), "the last commit": git("show", f"HEAD:./{lock}")}
    for source, good in sources.items():
        if not problem(good):
            write(lock, good)
            return f"{lock} {why}: replaced by {source}. The old file is {broken}."
    lock.unlink(missing_ok=True)
    return f"{lock} {why} and there is no copy: removed. DVC restores what its run cache has."
