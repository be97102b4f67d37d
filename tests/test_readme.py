"""The README's commands, as written, on a fresh clone. Slow: it is the whole default run.

Run: uv run pytest -m slow tests/test_readme.py
"""

import os
import re
import subprocess

import pytest
import toy as toys

README = (toys.ROOT / "README.md").read_text()


def test_the_readme_names_every_stage_and_every_file_it_links_exists():
    for name in toys.YAML(typ="safe").load(toys.ROOT / "dvc.yaml")["stages"]:
        assert f"stages/{name}/" in README, name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (toys.ROOT / link).exists(), link


def test_the_readmes_params_are_keys_of_params_yaml():
    params = toys.YAML(typ="safe").load(toys.ROOT / "params.yaml")
    for block in re.findall(r"```yaml\n(.*?)```", README, re.S):
        for section, values in toys.YAML(typ="safe").load(block).items():
            assert set(values) <= set(params[section]), section


@pytest.mark.slow
def test_the_first_command_on_a_fresh_clone_ends_with_the_report_and_then_does_nothing(tmp_path):
    subprocess.run(["git", "clone", "-q", str(toys.ROOT), "clone"], cwd=tmp_path, check=True)
    clone, env = tmp_path / "clone", {**os.environ, "DVC_NO_ANALYTICS": "1"}
    env.pop("VIRTUAL_ENV", None)
    command = re.search(r"pip install uv && (uv run dvc repro)", README)[1].split()
    subprocess.run(command, cwd=clone, env=env, check=True)
    assert (clone / "reports/index.html").stat().st_size > 100_000
    again = subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True, text=True)
    assert "Data and pipelines are up to date" in again.stdout
