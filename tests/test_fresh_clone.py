"""The README's first command on a fresh clone ends with the report, and a second run has nothing to do.

Run: uv run pytest -m slow tests/test_fresh_clone.py
"""

import os
import re
import subprocess

import pytest
from toy import ROOT


@pytest.mark.slow
def test_the_first_command_on_a_fresh_clone_ends_with_the_report_and_then_does_nothing(tmp_path):
    subprocess.run(["git", "clone", "-q", str(ROOT), "semtok"], cwd=tmp_path, check=True)
    clone, env = tmp_path / "semtok", {**os.environ, "DVC_NO_ANALYTICS": "1"}
    env.pop("VIRTUAL_ENV", None)
    command = re.search(r"pip install uv && (uv run dvc repro)", (ROOT / "README.md").read_text())[1].split()
    subprocess.run(command, cwd=clone, env=env, check=True)
    assert (clone / "reports/index.html").stat().st_size > 100_000
    again = subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True, text=True)
    assert "Data and pipelines are up to date" in again.stdout
