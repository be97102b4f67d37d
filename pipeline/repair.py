"""Find and fix what a killed DVC process leaves half written, so that DVC works again.

    semtok run          fixes issues before it starts
    semtok doctor       lists them; --fix fixes them

DVC writes dvc.lock and .dvc/tmp/rwlock in place: if it is killed meanwhile, it cannot read them any more. If it is
killed while it adds a run to its run cache, an empty folder remains and the same stage fails from then on.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from dvc.repo import Repo
from dvc.scm import SCMError

from pipeline import dvc_locks, lockfile
from pipeline.errors import PipelineError
from pipeline.files import git, read

EXPERIMENTS = Path(".dvc/tmp/exps")  # workspaces of `dvc queue start` and `dvc exp run --temp` have their own locks
TEMPORARY = re.compile(r".*\.[\w-]{22}\.tmp")  # names of files that DVC renames once they are whole
NO_SCM = "dvc config --local core.no_scm true"
GIT_SECS, CACHE_SECS = 60, 3600  # younger locks of git refs, and files in a shared cache, may be in use


@dataclass(frozen=True)
class Issue:
    """Something half written; `fix` repairs it and returns what it did."""

    text: str
    fix: Callable[[], str]


def fix_issues() -> list[str]:
    """Fix all issues unless a DVC process is running; return one sentence per issue about what was done."""
    if not Path(".dvc").is_dir():
        return []
    with dvc_locks.exclude_dvc() as alone:
        return [issue.fix() for issue in find_issues()] if alone else []


def find_issues() -> list[Issue]:
    """All issues. Call it inside `exclude_dvc`, since DVC's own writing looks the same."""
    runs, files = cache_folders()
    folders = [*runs.glob("*/*"), files, *files.glob("??"), *{Path(out).parent for out in outputs()}]
    empty = [run for run in runs.glob("*/*") if run.is_dir() and all(map(is_temporary, run.iterdir()))]
    temporary = [path for folder in folders for path in folder.glob("*.tmp") if is_temporary(path)]
    return [
        *claims_issue(),
        *lockfile_issues(),
        *removal(unused(empty), "unfinished entries in DVC's run cache, which make their stages fail"),
        *removal(unused(temporary), "temporary files of DVC, which beside outputs make stages run again"),
        *removal(git_locks(), "git locks of a killed `dvc exp run`, which make the next one fail"),
    ]


def claims_issue() -> list[Issue]:
    """DVC's file of claims is cut off, or names the pid of a zombie or of another process."""
    try:
        pids = [claim.pid for claim in dvc_locks.read_claims() if psutil.pid_exists(claim.pid)]
        why = f"names process {pids[0]}, which is not a DVC process any more" if pids else ""
    except ValueError:
        why = "is cut off or corrupt"

    def fix() -> str:
        dvc_locks.CLAIMS.unlink()
        return f"{dvc_locks.CLAIMS} {why}: removed; DVC creates a new one."

    return [Issue(f"{dvc_locks.CLAIMS} {why}", fix)] if why else []


def lockfile_issues() -> list[Issue]:
    """A dvc.lock is cut off or missing."""
    reasons = {lock: lockfile.find_problem(lock) for lock in lockfile.lockfiles()}
    return [Issue(f"{lock} {why}", partial(lockfile.restore, lock)) for lock, why in reasons.items() if why]


def git_locks() -> list[Path]:
    """Git's locks on refs of experiments; git itself holds one for moments."""
    folder = Path(git("rev-parse", "--git-path", "refs/exps").strip() or ".")
    locks = folder.rglob("*.lock") if folder.name == "exps" else []
    return [path for path in locks if age_secs(path) > GIT_SECS]


def removal(paths: list[Path], what: str) -> list[Issue]:
    """An issue that is fixed by removing the paths; none without paths."""
    text = f"{len(paths)} {what}: {', '.join(map(str, paths[:2]))}{' …' * (len(paths) > 2)}"

    def fix() -> str:
        for path in paths:
            remove(path)
        return f"removed {text}"

    return [Issue(text, fix)] if paths else []


def remove(path: Path) -> Path:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def outputs() -> list[str]:
    """The paths of all outputs that each dvc.lock, or its last copy, records."""
    texts = [(read(lock), read(lockfile.copy_of(lock))) for lock in lockfile.lockfiles()]
    return [path for text, copy in texts for path in lockfile.recorded_outputs(text) or lockfile.recorded_outputs(copy)]


def is_temporary(path: Path) -> bool:
    return TEMPORARY.fullmatch(path.name) is not None


def unused(paths: Iterable[Path]) -> list[Path]:
    """The paths that no process can be writing: all in this folder unless experiments run, and old ones elsewhere."""
    here = None if any(EXPERIMENTS.glob("*")) else Path.cwd()
    return [path for path in paths if (here and path.absolute().is_relative_to(here)) or age_secs(path) > CACHE_SECS]


def age_secs(path: Path) -> float:
    """Seconds since a file was written; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def cache_folders() -> tuple[Path, Path]:
    """DVC's run cache and its cache of files."""
    try:
        with Repo() as repo:
            return Path(repo.stage_cache.cache_dir), Path(repo.cache.local.path)
    except SCMError as error:
        raise without_git(error) from None


def without_git(error: SCMError) -> PipelineError:
    """What to do in a folder that was unpacked without .git."""
    return PipelineError(f"{error}. For DVC to work without git, run `{NO_SCM}`; for its experiments, `git init`")
