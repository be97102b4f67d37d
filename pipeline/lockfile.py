"""dvc.lock: detect a file that was cut off, keep the last good copy, restore it.

DVC writes dvc.lock in place, so a process that is killed meanwhile leaves a truncated file. `semtok run` keeps a copy
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
from pipeline.files import WORK, git, read, write

LOCKFILE, COPY, BROKEN = Path("dvc.lock"), WORK / "dvc.lock", WORK / "dvc.lock.broken"
CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.M)


def problem(text: str) -> str:
    """Why DVC cannot use this dvc.lock; empty if it can."""
    if not text.strip():
        return "is empty"
    return "" if text.endswith("\n") and parse(text) else "is cut off or corrupt"


@lru_cache(maxsize=2)  # dvc.lock and its copy
def parse(text: str) -> dict[str, Any]:
    """The stages of a dvc.lock by name, to be read only; empty if DVC cannot read it."""
    try:
        stages = SCHEMA(YAML(typ="safe").load(text)).get("stages", {})
    except (YAMLError, ValueError, Invalid):
        return {}
    paths = [path for stage in stages.values() for part in ("deps", "outs") for path in stage.get(part, [])]
    return stages if all(isinstance(path.get(path.get("hash", "path")), str) for path in paths) else {}


def recorded_outputs(text: str) -> dict[str, str]:
    """The path of every output of a dvc.lock, with the hash that DVC recorded."""
    outs = [out for stage in parse(text).values() for out in stage.get("outs", [])]
    return {out["path"]: out.get(out.get("hash"), "") for out in outs}


def keep_copy() -> None:
    """Copy dvc.lock, if it is whole; DVC may be writing it at this moment."""
    text = read(LOCKFILE)
    if text != read(COPY) and not problem(text):
        write(COPY, text)


def find_problem() -> str:
    """Why dvc.lock of this folder needs repair; `PipelineError` if it has conflict markers of git."""
    text = read(LOCKFILE)
    if CONFLICT.search(text):
        raise PipelineError(
            f"{LOCKFILE} has conflict markers of a git merge. Take one side: `git checkout --ours {LOCKFILE}`, or "
            "--theirs. `semtok run` computes or restores what it lacks."
        )
    if LOCKFILE.exists():
        return problem(text)
    return "is missing" if COPY.exists() else ""


def restore() -> str:
    """Replace dvc.lock by the last good copy or that of git's last commit, else remove it; return what was done."""
    text, why = read(LOCKFILE), find_problem()
    if text:
        write(BROKEN, text)
    sources = {"the copy of the last run": read(COPY), "the last commit": git("show", f"HEAD:./{LOCKFILE}")}
    for source, good in sources.items():
        if not problem(good):
            write(LOCKFILE, good)
            return f"{LOCKFILE} {why}: replaced by {source}. The old file is {BROKEN}."
    LOCKFILE.unlink(missing_ok=True)
    return f"{LOCKFILE} {why} and there is no copy: removed. DVC restores what its run cache has."
