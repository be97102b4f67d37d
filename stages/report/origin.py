"""Where a page comes from: the commit of code and params, what was edited since, the machine, changed params.

The page is an output of DVC, which is to be the same to the byte for the same inputs on one machine. So the date is
that of the commit, not of the run, and the commit is the last one that touched code or params: a commit of results
changes nothing. The machine is described by its system, processor and GPUs; its name, which may be a person's, is not
asked for.
"""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.report.gather import Reports
from stages.report.tables import short

PARAMS = ("params.yaml", "studies/params.yaml")
FILES = ("stages", "dvc.yaml", "studies/dvc.yaml", *PARAMS, "pretrain.yaml", "uv.lock")
INPUTS = tuple(f":/{name}" for name in FILES)  # from the top of the checkout
FILES_NAMED = 3


@dataclass(frozen=True)
class Origin:
    """`commit` and `date` are empty outside git; `changed`: parameter, committed value, value of this run."""

    machine: str
    commit: str = ""
    date: str = ""
    edited: list[str] = field(default_factory=list)
    changed: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def said(self) -> list[tuple[str, str]]:
        """What, in words."""
        code = f"commit {self.commit} of {self.date}" if self.commit else "not in a git checkout"
        if self.edited:
            more = len(self.edited) - FILES_NAMED
            names = ", ".join(self.edited[:FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
            code += f", edited since: {names}"
        count = len(self.changed)
        params = f"{count} differ from those committed: see Stages" if count else "as committed"
        return [("code", code), ("machine", self.machine), *([("params", params)] if self.commit else [])]


def origin(reports: Reports) -> Origin:
    """Of the last runs in the checkout that the reports lie in."""
    git = partial(git_in, reports.root)
    commit, _, date = git("log", "-1", "--format=%h %cs", "--", *INPUTS).strip().partition(" ")
    if not commit:
        return Origin(machine())
    edited = [line[3:] for line in git("status", "--porcelain", "--", *INPUTS).splitlines()]
    files = [flat(YAML(typ="safe").load(git("show", f"HEAD:{file}")) or {}) for file in PARAMS]
    committed = {key: value for one in files for key, value in one.items()}
    return Origin(machine(), commit, date, edited, changed(committed, flat(reports.params)))


def git_in(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder; empty if it fails or git is not installed."""
    if not shutil.which("git"):
        return ""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=30
    )
    return done.stdout if done.returncode == 0 else ""


def changed(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The keys of `other` whose values are not those of `one`, with both; keys of pretrain.yaml are left out."""
    return [
        (key, short(str(one.get(key, "–"))), short(str(value)))
        for key, value in sorted(other.items())
        if one.get(key) != value and not key.startswith("pretrain.")
    ]


def flat(values: Any, above: str = "") -> dict[str, Any]:
    """Nested sections as one, with dotted keys; a list is a value."""
    if not isinstance(values, dict):
        return {above: values}
    parts = [flat(value, f"{above}.{name}".strip(".")) for name, value in values.items()]
    return {key: value for part in parts for key, value in part.items()}


def machine() -> str:
    """System, processor, its cores, and GPUs."""
    cores = f"{os.cpu_count()} cores"
    return ", ".join(filter(None, [f"{platform.system()} {platform.machine()}", processor(), cores, *gpus()]))


def processor() -> str:
    """The processor's model; empty where the system does not say."""
    return first(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$")


def gpus() -> list[str]:
    """The models of NVIDIA's GPUs, as the driver lists them."""
    found = [first(path, r"^Model:\s*(.+)$") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return [f"{found.count(name)} x {name}" for name in dict.fromkeys(found)]


def first(path: Path, pattern: str) -> str:
    """What a pattern finds in a file; empty if nothing or there is no file."""
    match = re.search(pattern, path.read_text(errors="replace"), re.M) if path.is_file() else None
    return match[1].strip() if match else ""
