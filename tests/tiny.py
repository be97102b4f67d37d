"""The smallest DVC project with all that a pipeline has: a matrix, a frozen stage, params, a metric. Stages are `cp`.

source.txt ─► one ─► two@{p,q} ─► three          frozen ─► three
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).parents[1]
DVC_YAML = """\
stages:
  one:
    desc: the first
    cmd: mkdir -p data && cp source.txt data/one
    deps: [source.txt]
    params: [first]
    outs: [data/one]
  frozen:
    desc: shipped
    frozen: true
    cmd: cp data/one shipped.txt
    deps: [data/one]
    params: [shipped]
    outs:
      - shipped.txt: {cache: false}
  two:
    desc: the second
    matrix:
      name: ${names}
    cmd: mkdir -p data/two && cp data/one data/two/${item.name}
    deps: [data/one]
    params: [second.low, "second.${item.name}"]
    outs: ["data/two/${item.name}"]
  three:
    desc: the last, from all that was made before, with a description that is much longer than any line of a table
    cmd: mkdir -p data/three && cp data/two/* data/three && cp data/one metrics.json
    deps: [data/two, shipped.txt]
    params: [names]
    outs: [data/three]
    metrics:
      - metrics.json: {cache: false}
"""
PARAMS = """\
# All of it.
names: [p, q]        # members of the matrix

machine:
  workers: 2         # no stage reads it
first: {seed: 0, rate: 1.0e-3}
shipped: {seed: 0}
second:
  low: 0.5
  p: {color: red}   # of one member
  q: {color: "blue"}
"""
CHECK = """\
\"\"\"The tiny project's check of its params, with the messages of the real one.\"\"\"
import sys
from ruamel.yaml import YAML

path = sys.argv[2] if len(sys.argv) > 1 else "params.yaml"
params = YAML(typ="safe").load(open(path))
errors = [f"first.{key}: no such key" for key in params["first"].keys() - {"seed", "rate"}]
errors += [f"first.seed = {params['first']['seed']}: expected 0 or more"] * (params["first"]["seed"] < 0)
errors += [f"second.low = {params['second']['low']!r}: expected a number"] * isinstance(params["second"]["low"], str)
for line in errors:
    print(f"error: {path}: {line}", file=sys.stderr)
sys.exit(2 if errors else 0)
"""


def project(tmp_path_factory, root: Path) -> Path:
    """The project below `root`, in which all has run and is up to date. Built once a session and copied."""
    template = tmp_path_factory.getbasetemp() / "tiny"
    if not template.exists():
        build(template)
    return Path(shutil.copytree(template, root))


def build(root: Path) -> None:
    """Write, initialize and run it."""
    root.mkdir()
    for name, text in (("dvc.yaml", DVC_YAML), ("params.yaml", PARAMS), ("source.txt", "7\n"), ("shipped.txt", "7\n")):
        (root / name).write_text(text)
    dvc(root, "init", "--no-scm", "-q")
    dvc(root, "repro", "-q")


def dvc(root: Path, *arguments: str) -> str:
    """What a dvc command prints, in a process of its own."""
    done = forks.run("dvc", *arguments, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stale(root: Path) -> dict:
    """What `dvc status` calls stale."""
    from dvc.repo import Repo

    with contextlib.chdir(root), Repo() as repo:
        return repo.status()


def repro(root: Path, *targets: str) -> None:
    """What `dvc repro` does, in this process."""
    from dvc.repo import Repo

    with contextlib.chdir(root), Repo() as repo:
        repo.reproduce(list(targets) or None)


def semtok(root: Path, *arguments: str, status: int = 0) -> str:
    """What a semtok command prints, errors too. In this process: importing DVC takes a second."""
    from pipeline import cli

    printed = io.StringIO()
    with contextlib.chdir(root), redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as end:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["semtok", *arguments])
            cli.main()
    assert end.value.code == status, printed.getvalue()
    return printed.getvalue()


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the project, with this repository's code and none of its warnings."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "DVC_NO_ANALYTICS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True)


def add_check(root: Path) -> Path:
    """The project with a `stages/check.py`, which `semtok` asks whether params are possible."""
    (root / "stages").mkdir()
    (root / "stages/__init__.py").touch()  # else the repository's own package is found
    (root / "stages/check.py").write_text(CHECK)
    return root


def stages_in(printed: str) -> list[str]:
    """The stages that `semtok set` listed, in order."""
    return re.findall(r"^  (\S+)  ", printed, re.M)
