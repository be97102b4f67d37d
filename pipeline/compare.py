"""Show experiments of DVC or commits of git side by side: their params, numbers and pictures, as one page.

Run:    semtok compare EXP [EXP…] [--out FILE]      (EXP: a name of `dvc exp list`, a commit, a branch, or `workspace`)
Expect: the page, after some seconds; with one name, this workspace is the other side.

Everything is read through git and DVC's cache: no file of the workspace is changed, nothing is checked out.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import RevError, SCMError

from pipeline.errors import PipelineError
from pipeline.files import git
from pipeline.params_check import ask

WORKSPACE, SECS = "workspace", 300
INPUTS, REPORTS = ("dvc.yaml", "dvc.lock", "params.yaml"), "reports"
PICTURED = (f"{REPORTS}/generation", f"{REPORTS}/reconstruction")  # of what the page shows pictures


def main(experiments: list[str], out: Path) -> int:
    """Write the page and print where it is and what is missing."""
    names = experiments if len(experiments) > 1 else [*experiments, WORKSPACE]
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            export(name, Path(folder, f"{number:03d}"))
        printed, errors = ask("stages.report.compare", "--runs", folder, "--out", str(out), secs=SECS)
    if errors:
        raise PipelineError("\n".join(errors))
    print(printed.strip())
    return 0


def export(name: str, folder: Path) -> None:
    """Copy the inputs, metrics and pictures of an experiment, a commit or the workspace, and what git says of it."""
    try:
        fs = DVCFileSystem(rev=None if name == WORKSPACE else name)
        missing = [path for path in files_of(fs) if not copy(fs, path, folder / path)]
    except RevError:
        known = "`dvc exp list --all-commits` and `git log` list what there is"
        raise PipelineError(f"{name}: neither an experiment nor a git revision; {known}") from None
    except (DvcException, SCMError) as error:
        raise PipelineError(f"{name}: DVC cannot read it: {' '.join(str(error).split())}") from None
    if not (folder / "dvc.yaml").is_file():
        raise PipelineError(f"{name}: it has no dvc.yaml")
    facts = {"name": name, "missing": len(missing), **facts_of("HEAD" if name == WORKSPACE else fs.repo.get_rev())}
    (folder / "run.json").write_text(json.dumps(facts))


def files_of(fs: DVCFileSystem) -> Iterator[str]:
    """The paths that the page is made of."""
    folders = [entry["name"].strip("/") for entry in fs.ls("", detail=True) if entry["type"] == "directory"]
    inputs = [*INPUTS, *(f"{folder}/{name}" for folder in folders for name in INPUTS)]
    yield from filter(fs.isfile, inputs)
    for path in fs.find(REPORTS) if fs.isdir(REPORTS) else []:
        parts = PurePosixPath(path.lstrip("/"))
        pictured = "pictures" in parts.parts and str(parts).startswith(PICTURED)
        if parts.name == "metrics.json" or pictured:
            yield str(parts)


def copy(fs: Any, path: str, to: Path) -> bool:
    """Copy one file; False if it is in neither git nor DVC's cache."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        fs.get_file(path, str(to))
    except FileNotFoundError:
        to.unlink(missing_ok=True)
        return False
    return True


def facts_of(revision: str) -> dict[str, str]:
    """Commit, date and first line of the message."""
    commit, date, subject = (git("log", "-1", "--format=%h%n%cs%n%s", revision).splitlines() + [""] * 3)[:3]
    return {"commit": commit, "date": date, "subject": subject}
