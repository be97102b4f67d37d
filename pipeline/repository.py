"""Checks of this repository: git, DVC's settings, params.yaml, disk, cache, and issues that a killed process left."""

import configparser
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from pipeline import dvc_locks, environment, params_check, repair
from pipeline.errors import PipelineError
from pipeline.finding import Finding, human_size

COMMITTED = {"core.analytics": "false", "core.check_update": "false", "core.autostage": "false"}
CACHE_SECS = 3.0  # for adding up the cache


def git() -> list[Finding]:
    """Experiments, and the history of dvc.lock, need a git checkout."""
    with suppress(FileNotFoundError):
        command = ["git", "rev-parse", "--is-inside-work-tree"]
        if subprocess.run(command, capture_output=True, timeout=30).returncode == 0:
            return [Finding("ok", "git", "in a checkout")]
    if read_config().get("core.no_scm") != "true":
        return [Finding("FAIL", "git", "no checkout here, without which DVC works only if told so", repair.NO_SCM)]
    return [Finding("warn", "git", "no checkout here: no history of dvc.lock, no experiments", "git init")]


def dvc_config() -> list[Finding]:
    """DVC is initialized and has the settings of the committed .dvc/config."""
    if not Path(".dvc").is_dir():
        return [Finding("FAIL", "dvc", "not initialized", "dvc init")]
    settings = read_config()
    findings = [
        Finding("warn", "dvc", f"{key} is not {value}", f"dvc config {key} {value}")
        for key, value in COMMITTED.items()
        if settings.get(key) != value
    ]
    if settings.get("core.hardlink_lock") == "true":
        why = "core.hardlink_lock is on, which hides running DVC processes"
        findings.append(Finding("warn", "dvc", why, "dvc config core.hardlink_lock false"))
    return findings or [Finding("ok", "dvc", "initialized; no analytics, no update check, no autostage")]


def read_config() -> dict[str, str]:
    """DVC's settings of this repository, `section.key`; config.local overrides config."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read([".dvc/config", ".dvc/config.local"])
    return {f"{part}.{key}": value.strip().lower() for part in parser.sections() for key, value in parser[part].items()}


def params() -> list[Finding]:
    """params.yaml by the stages' own schemas."""
    if not Path("stages/check.py").is_file():
        return []
    lines = params_check.find_errors()
    failed = [Finding("FAIL", "params.yaml", line, "semtok set KEY=VALUE") for line in lines]
    return failed or [Finding("ok", "params.yaml", "every value is possible")]


def disk() -> list[Finding]:
    """Free space for artifacts, and for the cache if it is elsewhere."""
    return environment.free_space({"data": Path("data"), "dvc cache": repair.cache_folders()[1]})


def cache() -> list[Finding]:
    """Size of DVC's cache, and how files are linked from it."""
    folder, begun, total, more = repair.cache_folders()[1].parent.parent, time.monotonic(), 0, ""
    for path in folder.rglob("*"):
        if time.monotonic() - begun > CACHE_SECS:
            more = "more than "
            break
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    links = read_config().get("cache.type", "reflink,copy")
    text = f"{folder}: {more}{human_size(total)}, files come out as {' or '.join(links.split(','))}"
    return [Finding("ok", "dvc cache", text)]


def issues(fix: bool) -> list[Finding]:
    """What repair.py finds, or has fixed."""
    if not Path(".dvc").is_dir():
        return []
    try:
        with dvc_locks.exclude_dvc() as alone:
            if not alone:
                return [Finding("warn", "issue", "a DVC process is running: check again when it has finished")]
            found = repair.find_issues()
            if fix and found:
                return [Finding("ok", "repaired", issue.fix()) for issue in found]
    except PipelineError as error:
        return [Finding("FAIL", "dvc.lock", str(error))]
    findings = [Finding("FAIL", "issue", issue.text, "semtok doctor --fix") for issue in found]
    return findings or [Finding("ok", "issues", "none: dvc.lock, DVC's claims and its run cache are whole")]
