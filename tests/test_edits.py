"""Edits while a training runs: a comment changes nothing, a real edit stops it, and no step is trained twice.

Run: uv run pytest tests/test_edits.py        (the other kinds of training: -m slow)
"""

import json
import shutil
import time
from multiprocessing import Process
from pathlib import Path

import pytest
import toy as toys

from stages.core import scratch

STEPS = {"total_steps": 40, "eval_share": 0.5}
LONG = {
    "codebook": {"vqgan": {"optim": STEPS}},
    "decoder": {"onestep": {"optim": STEPS, "gan": {"weight": 0.5, "start_share": 0.05}}},
    "generator": {"ar": STEPS},
    "classifier": {"optim": STEPS},
}
VQGAN = toys.COMMANDS["codebook"].replace("kmeans", "vqgan").replace("--inputs data/inputs/vqgan ", "")
TRAININGS = {  # name -> its command, its output, a file whose edit concerns it
    "generator": (toys.COMMANDS["generator@kmeans-ar"], "data/generator/kmeans-ar", "generator/training.py"),
    "pretrain": (toys.COMMANDS["pretrain"], "weights/digits", "encoder/pretraining.py"),
    "codebook": (VQGAN, "data/codebook/vqgan", "core/gan_trainer.py"),
    "decoder": (toys.COMMANDS["decoder"], "data/decoder/kmeans-onestep", "decoder/training.py"),
    "classifier": (toys.COMMANDS["classifier"], "data/classifier", "core/train.py"),
}
EACH = [pytest.param(name, marks=pytest.mark.slow if name != "generator" else ()) for name in TRAININGS]


def project(toy: Path, root: Path, checkpoint_share: float) -> Path:
    """The toy with its own copy of the stages, in which files may be edited."""
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch", "weights"))
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    toys.write_params(root, {**LONG, "machine": {"checkpoint_share": checkpoint_share}})
    pretrain = {"digits": {**toys.PRETRAIN["digits"], "optim": {**toys.OPTIM, **STEPS}}}
    toys.write_layers(root / "pretrain.yaml", pretrain)
    return root


def wait_for_step(step: int, child: Process, root: Path) -> None:
    while step_of(root) < step:
        assert child.is_alive(), (root / "said.log").read_text()
        time.sleep(0.005)


def end_of(child: Process, root: Path) -> tuple[int, str]:
    """Exit status and output of a training."""
    child.join()
    return child.exitcode, (root / "said.log").read_text()


def step_of(root: Path) -> int:
    latest = next(root.glob("scratch/*/*/latest.json"), None)
    return json.loads(latest.read_text())["step"] if latest else 0


def run(name: str, root: Path) -> str:
    with toys.process_of_its_own_stages(TRAININGS[name][0], root) as child:
        status, said = end_of(child, root)
    assert status == 0, said
    return said


@pytest.mark.parametrize("name", EACH)
def test_a_comment_in_every_file_changes_nothing_and_a_real_edit_stops_the_training(name, toy, tmp_path):
    undisturbed, edited = project(toy, tmp_path / "a", 0.02), project(toy, tmp_path / "b", 1.0)
    command, out, file = TRAININGS[name]
    run(name, undisturbed)
    stages = [*(edited / "stages").rglob("*.py")]
    changed = edited / "stages" / file
    before = changed.read_text()
    with toys.process_of_its_own_stages(command, edited) as child:
        wait_for_step(3, child, edited)
        changed.write_text(f"{before}EDITED = 1\n")
        status, said = end_of(child, edited)
    stopped_at = step_of(edited)
    assert status == 2 and f"stages/{file} changed while this stage ran" in said, said
    assert not (edited / out).exists() and 3 <= stopped_at < STEPS["total_steps"]

    changed.write_text(before)
    with toys.process_of_its_own_stages(command, edited) as child:
        wait_for_step(stopped_at + 3, child, edited)
        for path in stages:
            path.write_text(path.read_text() + "# a comment\n")
        status, said = end_of(child, edited)
    assert status == 0 and f"resuming at step {stopped_at}" in said, said
    assert toys.hashes(edited / out) == toys.hashes(undisturbed / out)

    shutil.rmtree(edited / out)  # as DVC does when the stage ended and dvc.lock was not written
    assert f"resuming at step {STEPS['total_steps']}" in run(name, edited)
    assert toys.hashes(edited / out) == toys.hashes(undisturbed / out)


def test_checkpoints_go_when_dvc_lock_names_the_output_and_others_stay(toy, tmp_path):

    root = shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root)
    toys.run("generator@kmeans-ar", root)
    [first] = root.glob("scratch/data-generator-kmeans-ar/*")
    toys.write_params(root, {"generator": {"ar": {"seed": 1}}})
    toys.run("generator@kmeans-ar", root)
    folders = {*root.glob("scratch/data-generator-kmeans-ar/*")}
    [second] = folders - {first}
    lock = {"path": "data/generator/kmeans-ar", "md5": scratch.dvc_hash(root / "data/generator/kmeans-ar")}
    (root / "dvc.lock").write_text(json.dumps({"stages": {"generator@kmeans-ar": {"outs": [lock]}}}))
    toys.write_params(root, {"generator": {"ar": {"seed": 2}}})
    toys.run("generator@kmeans-ar", root)
    folders = {*root.glob("scratch/data-generator-kmeans-ar/*")}
    assert first in folders and second not in folders and len(folders) == 2
