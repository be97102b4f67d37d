"""A DVC project whose stages do nothing but take their time, on this repository's own runtime and core.

    code ─► first ─► left ──► join ─► last
                └─► right@{1,2} ─┘        alone

`right` is in studies/dvc.yaml, all others are in dvc.yaml. Each stage adds its params' value to those of its inputs,
step by step, with a checkpoint after each. All depend on what `code` writes, the hashes of the files that they import;
`alone` has a module of its own.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forks
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.graph import name_of

ROOT = Path(__file__).parents[1]
STEPS = '''
"""A stage of the toy project: python -m stages.steps.run NAME --needs A,B --out data/NAME"""
import argparse, io, json, os, time
from pathlib import Path
from PIL import Image
from pydantic import Field
from stages.core import runtime
from stages.core.artifact import new_artifact, read_config, write_atomically
from stages.core.scratch import scratch
from stages.core.params import Section, load
from stages.core.progress import bar, emit_picture


class Params(Section):
    value: int = Field(ge=0)
    steps: int = Field(gt=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--needs", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    params = load(args.name, Params)
    needs = [Path("data", name) for name in args.needs.split(",") if name]
    total = params.value + sum(read_config(path, "sum")["sum"] for path in needs)
    print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES", "-"), flush=True)
    with scratch(args.out, params, needs) as work:
        state = work / "state.json"
        start = json.loads(state.read_text()) if state.is_file() else 0
        if start:
            print(f"resuming at step {start}", flush=True)
        with bar(args.out.name, params.steps, start, "step") as progress:
            for step in range(start, params.steps):
                time.sleep(0.05)
                write_atomically(state, json.dumps(step + 1).encode())
                progress.update()
        with new_artifact(args.out, "sum", {"sum": total}) as folder:
            (folder / "bytes.bin").write_bytes(bytes(range(256)) * 100 * (1 + total % 3))
        reports, png = Path("reports", args.out.name), io.BytesIO()
        reports.mkdir(parents=True, exist_ok=True)
        write_atomically(reports / "metrics.json", json.dumps({"sum": total}).encode())
        if args.name == "left":
            write_atomically(reports / "sums.tsv", f"step\\tsum\\n0\\t0\\n1\\t{total}\\n".encode())
        Image.new("RGB", (64, 64), (total % 256,) * 3).save(png, "PNG")
        emit_picture("squares", png.getvalue())


if __name__ == "__main__":
    runtime.run(main)
'''
MODULES = ("run", "other")  # the second of the stage `alone`
STUDIES = {"right"}
STAGES = {"code", "first", "left", "right@1", "right@2", "join", "last", "alone"}
VALUES = {
    name: {"value": 10**n, "steps": 6} for n, name in enumerate(("first", "left", "right", "join", "last", "alone"))
}


def stage(name: str, needs: str, matrix: list[int] | None = None, module: str = "run") -> dict:
    member = "-${item.n}" if matrix else ""
    facts = {
        "desc": f"adds {name}",
        "cmd": f"python -m stages.steps.{module} {name} --needs '{needs}' --out data/{name}{member}",
        "deps": [f"data/code/steps.{module}", *(f"data/{need}" for need in needs.split(",") if need)],
        "params": [name],
        "outs": [f"data/{name}{member}"],
        "metrics": [{f"reports/{name}{member}/metrics.json": {"cache": False}}],
    }
    plots = {"plots": [{"reports/left/sums.tsv": {"cache": False}}]} if name == "left" else {}
    if name in STUDIES:
        facts |= {"wdir": "..", "params": [{"studies/params.yaml": [name]}]}
    return ({"matrix": {"n": matrix}} if matrix else {}) | facts | plots


def build(root: Path, members: tuple[int, ...] = (1, 2)) -> Path:
    """The project below `root`, with DVC and git initialized; nothing has run."""
    shutil.copytree(ROOT / "stages/core", root / "stages/core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "stages/__init__.py", root / "stages")
    (root / "stages/steps").mkdir()
    for module in MODULES:
        (root / f"stages/steps/{module}.py").write_text(STEPS.lstrip())
    write_params(root)
    write_dvc_yaml(root, members)
    for name in (".dvcignore", ".gitignore", "prefect.toml"):
        shutil.copy(ROOT / name, root / name)
    run(["git", "init", "-q"], root)
    dvc(root, "init", "-q")
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    return root


def write_params(root: Path, **changes: dict) -> None:
    """VALUES with changes laid over them: write_params(root, left={"value": 3})."""
    write_parts(root, "params.yaml", {name: {**values, **changes.get(name, {})} for name, values in VALUES.items()})


def write_parts(root: Path, file: str, parts: dict[str, dict], above: str | None = None) -> None:
    """A YAML file of the root, and the studies' one, each with its own stages."""
    (root / "studies").mkdir(exist_ok=True)
    for path, own in ((root / file, parts.keys() - STUDIES), (root / "studies" / file, STUDIES)):
        content = {name: part for name, part in parts.items() if name in own}
        with open(path, "w") as stream:
            YAML(typ="safe").dump({above: content} if above else content, stream)


def write_dvc_yaml(root: Path, members: tuple[int, ...] = (1, 2)) -> None:
    """Both files dvc.yaml, with these members of the matrix."""
    needs = ",".join(["left", *(f"right-{n}" for n in members)])
    stages = {
        "code": {"cmd": "python -m stages.core.code --out data/code", "deps": ["stages"], "outs": ["data/code"]},
        "first": stage("first", ""), "left": stage("left", "first"), "right": stage("right", "first", list(members)),
        "join": stage("join", needs), "last": stage("last", "join"), "alone": stage("alone", "", module="other"),
    }  # fmt: skip
    write_parts(root, "dvc.yaml", stages, "stages")


def run(command: list[str], root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command in the project, which must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": path, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def dvc(root: Path, *arguments: str) -> str:
    """What a dvc command prints."""
    done = forks.run("dvc", *arguments, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def status(root: Path) -> dict:
    """What `dvc status` calls stale, by the stages' names."""
    with contextlib.chdir(root), Repo() as repo:
        return {name_of(address): why for address, why in repo.status().items()}
