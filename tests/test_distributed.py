"""Two processes make what one makes: the same bytes where nothing is trained, else the same weights up to rounding.

Run: uv run pytest tests/test_distributed.py
"""

import importlib.util
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy as toys
from photos import MACHINE
from ranks import ranks, run_together

from stages.core import UserError, distributed, runtime
from stages.core.hardware import process_group
from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.train import fit

# Shares are summed in another order. Measured: weights differ by at most 2.2e-6 (keys' biases, whose gradient is zero
# except rounding, which Adam enlarges; all others by 6e-7), curves by a 3e-7th. Training moves a weight by 5e-3.
CLOSE = {"rtol": 0, "atol": 1e-5}
AR, MASKED = "generator@kmeans-ar", "generator@kmeans-masked"
SAMPLES = "samples@kmeans-ar"
SHARED, TRAINED = ("features", "tokens"), ("decoder", AR, MASKED)
OUTS = {
    "features": "data/features",
    "tokens": "data/tokens/kmeans",
    "decoder": "data/decoder/kmeans-onestep",
    AR: "data/generator/kmeans-ar",
    MASKED: "data/generator/kmeans-masked",
    SAMPLES: "data/samples/kmeans/ar",
}
# Two channels per group of the decoder's norms: with one, some biases have no effect and drift as rounding has it.
# The floor is where the discriminator's average loss moves, so that the discriminator gate closes and opens.
GAN = {"weight": 0.5, "start_share": 0.25, "width": 16, "disc_loss_floor": 0.998}
DECODER = {"widths": [16, 16, 16], "gan": GAN}


def workplace(toy: Path, root: Path, changes: dict | None = None) -> Path:
    """A copy of the toy without alternating generators, whose decoder trains with a discriminator."""
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, {"decoder": {"onestep": DECODER}, "alternating_generators": [], **(changes or {})})
    return root


def kill_half_way(command: str, root: Path, count: int) -> None:
    """Kill all processes once the fifth step or a later one is saved; the discriminator plays by then."""
    with ranks(command, root, count) as children:
        while step_saved(root) < 5:
            assert all(child.is_alive() for child in children), f"{command} ended before it could be killed"
            time.sleep(0.002)
    assert not (root / OUTS[command]).exists(), "killed too late to prove anything"


def step_saved(root: Path) -> int:
    latest = next(root.glob("scratch/*/*/latest.json"), None)
    return json.loads(latest.read_text())["step"] if latest else 0


def assert_close(command: str, root: Path, expected: Path) -> None:
    """The weights and all curves of two runs are the same except for rounding."""
    from safetensors.torch import load_file

    weights = [load_file(folder / OUTS[command] / "model.safetensors") for folder in (root, expected)]
    torch.testing.assert_close(*weights, **CLOSE)
    np.testing.assert_allclose(curves(command, root), curves(command, expected), rtol=1e-5)


def curves(command: str, root: Path) -> list[float]:
    """All numbers in the curves' files."""
    files = sorted((root / "reports" / OUTS[command].removeprefix("data/")).glob("plots/metrics/**/*.tsv"))
    return [float(number) for file in files for row in file.read_text().split("\n")[1:] for number in row.split()]


@pytest.fixture(scope="module")
def one(toy, tmp_path_factory) -> Path:
    """Where one process made everything."""
    root = workplace(toy, tmp_path_factory.mktemp("one") / "toy")
    for command in TRAINED:
        toys.run(command, root)
    return root


@pytest.fixture(scope="module")
def two(toy, tmp_path_factory) -> Path:
    """Where two processes made everything."""
    root = workplace(toy, tmp_path_factory.mktemp("two") / "toy")
    for command in SHARED:
        shutil.rmtree(root / OUTS[command])
    for command in OUTS:
        assert run_together(command, root) == [0, 0], command
    return root


@pytest.mark.parametrize("command", SHARED)
def test_stages_that_share_files_make_the_same_bytes(command, one, two):
    assert toys.hashes(two / OUTS[command]) == toys.hashes(one / OUTS[command])


def test_one_process_draws_the_samples_that_two_draw_and_none_of_a_finished_part(two, tmp_path):
    root = shutil.copytree(two, tmp_path / "toy")
    shutil.rmtree(root / OUTS[SAMPLES])
    missing, *parts = sorted(root.glob("scratch/data-samples-kmeans-ar/*/*.npy"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    missing.unlink()
    toys.run(SAMPLES, root)
    assert toys.hashes(root / OUTS[SAMPLES]) == toys.hashes(two / OUTS[SAMPLES])
    assert len(parts) == 3 and {part: part.stat().st_mtime_ns for part in parts} == before
    for folder in ("scratch", OUTS[SAMPLES]):
        shutil.rmtree(root / folder)
    toys.run(SAMPLES, root)
    assert toys.hashes(root / OUTS[SAMPLES]) == toys.hashes(two / OUTS[SAMPLES])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_evaluation_gives_the_same_bytes_by_any_number_of_processes(count, one, tmp_path):
    root = shutil.copytree(one, tmp_path / "toy")
    evaluation = ("samples@kmeans-masked", SAMPLES, "reference", "reconstruction", "generation")
    for command in ("classifier", *evaluation):
        toys.run(command, root)
    made = [root / name for name in ("data/samples", "data/reference", "reports/reconstruction", "reports/generation")]
    expected = {folder: toys.hashes(folder) for folder in made}
    shutil.rmtree(root / "scratch")
    for folder in made:
        shutil.rmtree(folder)
    for command in evaluation:
        assert run_together(command, root, count) == [0] * count, command
    assert {folder: toys.hashes(folder) for folder in made} == expected


@pytest.mark.parametrize("command", TRAINED)
def test_training_makes_the_same_weights_and_curves(command, one, two):
    assert_close(command, two, one)


def test_training_killed_under_two_processes_goes_on_under_two_or_one(toy, one, two, tmp_path, capsys):
    killed = workplace(toy, tmp_path / "killed", {"machine": {"checkpoint_share": 1.0}})
    kill_half_way("decoder", killed, 2)
    again = shutil.copytree(killed, tmp_path / "again")
    assert run_together("decoder", again) == [0, 0]
    assert all("resuming at step" in (again / f"decoder-{rank}.log").read_text() for rank in range(2))
    assert toys.hashes(again / OUTS["decoder"]) == toys.hashes(two / OUTS["decoder"])
    assert len([*again.glob("scratch/*/*/published.json")]) == 1
    toys.run("decoder", killed)
    assert "resuming at step" in capsys.readouterr().out
    assert_close("decoder", killed, one)


def test_training_killed_under_one_process_goes_on_under_two(toy, one, tmp_path):
    root = workplace(toy, tmp_path / "killed", {"machine": {"checkpoint_share": 1.0}})
    kill_half_way(MASKED, root, 1)
    assert run_together(MASKED, root) == [0, 0]
    assert all("resuming at step" in (root / f"{MASKED}-{rank}.log").read_text() for rank in range(2))
    assert_close(MASKED, root, one)


@pytest.mark.parametrize("command", ["decoder", MASKED])
def test_a_non_finite_loss_stops_every_process_with_the_same_message(command, toy, tmp_path):
    endless = {"lr_peak": 1e30, "warmup_share": 0.0}
    root = workplace(
        toy, tmp_path / "toy", {"decoder": {"onestep": {"optim": endless}}, "generator": {"masked": endless}}
    )
    assert run_together(command, root) == [2, 2]
    last = [(root / f"{command}-{rank}.log").read_text().splitlines()[-1] for rank in range(2)]
    assert last[0] == last[1] and "non-finite loss or gradient at step" in last[0]


@pytest.mark.parametrize(("command", "key"), [("decoder", "decoder.onestep.optim"), (AR, "generator.ar")])
def test_a_batch_that_cannot_be_shared_is_refused_before_any_work(command, key, toy, tmp_path, monkeypatch):
    root = workplace(toy, tmp_path / "toy")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=rf"{key}\.batch_size = 8: expected a multiple of the 3 processes"):
        toys.run(command, root)
    assert not (root / "scratch").exists()


def test_shares_are_equal_and_join_to_the_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(distributed.share_of(np.arange(12)).tolist())
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_each_process_drops_out_activations_of_its_own(tmp_path, monkeypatch):
    drawn = {}
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        drawn[rank] = draws_in_training(tmp_path / str(rank))
    assert len(set(drawn[0] + drawn[1])) == 4, "by rank and by step"
    assert drawn[1] == draws_in_training(tmp_path / "again")


def draws_in_training(work: Path) -> list[float]:
    """What torch's own generator gives in the loss of each of two steps."""
    work.mkdir()
    drawn, model = [], torch.nn.Linear(1, 1)
    optim = Optim(
        total_steps=2, batch_size=2, lr_peak=0.1, warmup_share=0.5, weight_decay=0.1, beta2=0.9, clip_norm=1.0,
        ema_decay=0.9, eval_share=1.0, precision="fp32", seed=0,
    )  # fmt: skip

    def loss(model, batch, step):
        drawn.append(float(torch.rand(())))
        return model(batch[0]).sum(), {}

    with process_group():
        fit(
            model, optim, lambda step: (torch.ones(2, 1),), loss, lambda step, model: {}, Curves(),
            work=work, machine=MACHINE, device=torch.device("cpu"), name="test", batch_keys=str,
        )  # fmt: skip
    return drawn


@pytest.mark.parametrize("command", [*OUTS, "samples@kmeans-masked", "reference", "reconstruction", "generation"])
def test_the_command_may_be_started_as_several_processes(command, monkeypatch):
    """tests/test_runtime.py: how; it calls `runtime.run` as `python -m` would."""
    asked: list[bool] = []
    monkeypatch.setattr(runtime, "run", lambda main, parallel=False: asked.append(parallel))
    module = importlib.util.find_spec(shlex.split(toys.COMMANDS[command])[0])
    runpy.run_path(module.origin, run_name="__main__")
    assert asked == [True]


@pytest.mark.slow
def test_the_command_starts_its_own_processes(toy, two, tmp_path):
    root = workplace(toy, tmp_path / "toy")
    command = [sys.executable, "-m", *shlex.split(toys.COMMANDS["generator@kmeans-ar"])]
    env = {**os.environ, "NPROC": "2", "PYTHONPATH": str(toys.ROOT)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert toys.hashes(root / OUTS[AR]) == toys.hashes(two / OUTS[AR])
