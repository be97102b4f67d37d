"""Is everything in order? The installation, the machine, this repository, and what a crash has left behind.

Run:    semtok doctor [--fix]
Expect: a line a check, ok, warn or FAIL, each but ok with a command that helps; ten seconds. No network is needed, and
        nothing is changed without --fix, which repairs what a crash left half done.
"""

from __future__ import annotations

import configparser
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline import leftovers, locks, probes, repair
from pipeline.errors import PipelineError
from pipeline.probes import Finding, gigabytes

COMMITTED = {"core.analytics": "false", "core.check_update": "false", "core.autostage": "false"}
CACHE_SECS = 3.0  # for adding up the cache


def doctor(fix: bool) -> int:
    """Print all findings as they come; 1 if one is FAIL, else 0."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": probes.interpreter,
        "packages": probes.packages,
        "git": git,
        "dvc": dvc_config,
        "params.yaml": params,
        "torch": probes.torch_gpus,
        "faiss": probes.faiss_kmeans,
        "disk": disk,
        "dvc cache": cache,
        "damage": partial(damage, fix),
        "unfinished": partial(leftovers.partials, fix),
        "scratch": leftovers.unfinished_work,
        "prefect server": probes.prefect_server,
        "prefect": partial(leftovers.flow_runs, fix),
    }
    failed = False
    with ThreadPoolExecutor(2) as pool:
        for findings in pool.map(safely, checks, checks.values()):
            for finding in findings:
                failed |= finding.state == "FAIL"
                print(f"{finding.state:4}  {finding.subject:14}  {finding.text}", flush=True)
                if finding.fix:
                    print(f"{'':22}→ {finding.fix}", flush=True)
    return 1 if failed else 0


def safely(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check's findings; its own failure is one too."""
    try:
        return check()
    except Exception as error:
        return [Finding("FAIL", subject, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]


def git() -> list[Finding]:
    """A git checkout: experiments and the history of dvc.lock need one."""
    if quietly("git", "rev-parse", "--is-inside-work-tree"):
        return [Finding("ok", "git", "in a checkout")]
    return [Finding("warn", "git", "no checkout here: no history of dvc.lock, no experiments", "git init")]


def dvc_config() -> list[Finding]:
    """DVC is initialised, keeps to itself, and is set up as committed."""
    if not Path(".dvc").is_dir():
        return [Finding("FAIL", "dvc", "not initialised", "dvc init")]
    settings = read_config()
    wrong = [key for key, value in COMMITTED.items() if settings.get(key) != value]
    findings = [
        Finding("warn", "dvc", f"{key} is not {COMMITTED[key]}", f"dvc config {key} {COMMITTED[key]}") for key in wrong
    ]
    if settings.get("core.hardlink_lock") == "true":
        why = "core.hardlink_lock is on: DVC at work cannot be seen"
        findings.append(Finding("warn", "dvc", why, "dvc config core.hardlink_lock false"))
    return findings or [Finding("ok", "dvc", "initialised; no analytics, no update check, no autostage")]


def read_config() -> dict[str, str]:
    """DVC's settings of this repository, `section.key`; config.local goes over config."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read([".dvc/config", ".dvc/config.local"])
    return {f"{part}.{key}": value.strip().lower() for part in parser.sections() for key, value in parser[part].items()}


def params() -> list[Finding]:
    """params.yaml by the stages' own schemas."""
    if not Path("stages/check.py").is_file():
        return []
    done = subprocess.run([sys.executable, "-m", "stages.check"], capture_output=True, text=True, timeout=30)
    if done.returncode == 0:
        return [Finding("ok", "params.yaml", "every value is possible")]
    lines = [line.removeprefix("error: ") for line in done.stderr.strip().splitlines()]
    return [Finding("FAIL", "params.yaml", line, "semtok set KEY=VALUE") for line in lines]


def disk() -> list[Finding]:
    """Room for artefacts, and for the cache if it is elsewhere."""
    return probes.disk({"data": Path("data"), "dvc cache": repair.cache_folders()[1]})


def cache() -> list[Finding]:
    """Size of DVC's cache and how files come from it."""
    folder, begun, total = repair.cache_folders()[1].parent.parent, time.monotonic(), 0
    for path in folder.rglob("*"):
        if time.monotonic() - begun > CACHE_SECS:
            break
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    more = "more than " if time.monotonic() - begun > CACHE_SECS else ""
    links = read_config().get("cache.type", "reflink,copy")
    text = f"{folder}: {more}{gigabytes(total)}, files come out as {' or '.join(links.split(','))}"
    return [Finding("ok", "dvc cache", text)]


def damage(fix: bool) -> list[Finding]:
    """What repair.py finds, or has repaired."""
    if not Path(".dvc").is_dir():
        return []
    try:
        with locks.hold_dvc() as alone:
            if not alone:
                return [Finding("warn", "damage", "a DVC process is at work: look again when it has finished")]
            found = repair.find()
            if fix and found:
                return [Finding("ok", "repaired", item.mend()) for item in found]
    except PipelineError as error:
        return [Finding("FAIL", "dvc.lock", str(error))]
    findings = [Finding("FAIL", "damage", item.what, "semtok doctor --fix") for item in found]
    return findings or [Finding("ok", "damage", "dvc.lock, DVC's claims and its run cache are whole")]


def quietly(*command: str) -> bool:
    """Whether a command ends with status 0."""
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        return False
