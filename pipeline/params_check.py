"""Check params.yaml by the stages' own schemas, in a process of its own: `python -m stages.check`."""

import subprocess
import sys
from pathlib import Path

from pipeline.errors import PipelineError

SECS = 60


def find_errors(path: Path = Path("params.yaml")) -> list[str]:
    """What is wrong in a params file, one line per value; nothing in a project without stages/check.py."""
    if not Path("stages/check.py").is_file():
        return []
    command = [sys.executable, "-m", "stages.check", "--params", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECS)
    except subprocess.TimeoutExpired:
        raise PipelineError(f"`python -m stages.check` has not ended after {SECS} s") from None
    lines = done.stderr.strip().splitlines() if done.returncode else []
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
