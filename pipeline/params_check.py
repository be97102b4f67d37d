"""Ask the stages' own code about params.yaml, in a process of its own: `python -m stages.check` and the like."""

import subprocess
import sys
from pathlib import Path

from pipeline.errors import PipelineError

SECS = 60


def find_errors(path: Path = Path("params.yaml")) -> list[str]:
    """What is wrong in a params file, one line per value; nothing in a project without stages/check.py."""
    return said_of(path)[1]


def said_of(path: Path, *options: str) -> tuple[list[str], list[str]]:
    """Notes on a params file and what is wrong in it, one line per value.

    With the option --here, what this machine and the artifacts in data/ cannot take is wrong, too.
    """
    if not Path("stages/check.py").is_file():
        return [], []
    printed, errors = ask("stages.check", "--params", str(path), *options, secs=SECS)
    return printed.splitlines(), errors


def check_params() -> None:
    """`PipelineError` with every impossible value of params.yaml."""
    if errors := find_errors():
        raise PipelineError("\n".join(errors))


def ask(module: str, *arguments: str, secs: float) -> tuple[str, list[str]]:
    """What `python -m module` prints, and its errors, one per line; the last line of another failure."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=secs)
    except subprocess.TimeoutExpired:
        raise PipelineError(f"`python -m {module}` has not ended after {secs} s") from None
    if not done.returncode:
        return done.stdout, []
    lines = done.stderr.strip().splitlines() or [f"`python -m {module}` ended with status {done.returncode}"]
    return done.stdout, [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
