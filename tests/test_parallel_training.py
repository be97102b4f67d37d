"""Every training in several processes, in micro-batches, sharded: the result of one process; resumed: the same bits.

Run: uv run pytest -m slow tests/test_parallel_training.py
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import toy as toys
from ranks import ranks, run_together
from safetensors.torch import load_file

from stages.core import transformer

pytestmark = pytest.mark.slow

AR, MASKED = "generator@kmeans-ar", "generator@kmeans-masked"
CODEBOOKS = ("codebook@cluster", "codebook@vqkd", "codebook@vqgan", "codebook@fsq")
DECODERS = ("decoder", "decoder@diffusion", "decoder@render_ar", "decoder@render_masked")
MEANS = (AR, MASKED, *DECODERS)  # whose loss is a mean over images: a batch may be cut
OPTIM = {"batch_size": 12}
# Two channels per group of the norms: with one, some biases have no effect and drift as rounding has it.
CONV = {"widths": [16, 16, 16], "optim": OPTIM, "gan": {"weight": 0.5, "start_share": 0.25, "width": 16}}
CHANGES = {
    "tokenizers": ["kmeans", "vqgan"],
    "codebook": {
        "cluster": {"optim": OPTIM}, "vqkd": {"encoder": {"dim": 64}, "optim": OPTIM}, "vqgan": CONV, "fsq": CONV
    },
    "decoder": {
        "onestep": CONV, "diffusion": CONV, "render_ar": {"optim": OPTIM}, "render_masked": {"optim": OPTIM}
    },
    "generator": {"ar": OPTIM, "masked": OPTIM},
}  # fmt: skip
# Sums in another order. Measured: weights differ by at most 1.1e-5 (diffusion in three processes) after 12 steps, which
# move a weight by 5e-3.
CLOSE = {"rtol": 0, "atol": 2e-5}


def workplace(root: Path, origin: Path, **machine: object) -> Path:
    """A copy of a folder, with other values of `machine`."""
    shutil.copytree(origin, root, ignore=shutil.ignore_patterns("scratch", "*.log"))
    toys.write_params(root, {**CHANGES, "machine": machine})
    return root


@pytest.fixture(scope="module")
def inputs(toy, tmp_path_factory) -> Path:
    """What the trainings need."""
    root = workplace(tmp_path_factory.mktemp("inputs") / "toy", toy)
    for name in CODEBOOKS:
        toys.run_line(toys.COMMANDS["tokenizer_inputs"].replace("kmeans", name.partition("@")[2]), root)
    toys.run("codebook@vqgan", root)
    for name in DECODERS[1:]:
        toys.run("pixel_tokenizer@" + name.partition("@")[2], root)
    return root


@pytest.fixture(scope="module")
def one(inputs, tmp_path_factory) -> Path:
    """Where one process made everything."""
    root = workplace(tmp_path_factory.mktemp("one") / "toy", inputs)
    for command in (*CODEBOOKS, *MEANS):
        toys.run(command, root)
    return root


def out_of(command: str) -> Path:
    """The artifact that a command writes."""
    words = shlex.split(toys.line_of(command))
    return Path(words[words.index("--out") + 1])


def assert_close(command: str, root: Path, expected: Path) -> None:
    """All weights are the same except for rounding."""
    files = sorted((expected / out_of(command)).rglob("*.safetensors"))
    assert files
    for file in files:
        torch.testing.assert_close(load_file(root / file.relative_to(expected)), load_file(file), **CLOSE)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("command", [*CODEBOOKS, *MEANS])
def test_processes_make_what_one_makes(command, count, inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, num_workers=1)
    assert run_together(command, root, count) == [0] * count
    assert_close(command, root, one)


@pytest.mark.parametrize("command", [AR, "decoder"])
def test_processes_add_up_micro_batches(command, inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, micro_batch_size=2)
    assert run_together(command, root, 2) == [0, 0]
    assert_close(command, root, one)


@pytest.mark.parametrize("command", MEANS)
def test_micro_batches_make_what_whole_batches_make(command, inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, micro_batch_size=3)
    toys.run(command, root)
    assert_close(command, root, one)


@pytest.mark.parametrize("machine", [{}, {"micro_batch_size": 2}], ids=["whole", "micro"])
@pytest.mark.parametrize("command", [AR, MASKED, "decoder@render_ar"])
def test_a_sharded_network_learns_what_a_whole_one_learns(command, machine, inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, shard_above=0.0, **machine)
    assert run_together(command, root, 3) == [0, 0, 0]
    assert "sharded among 3 processes" in (root / f"{command}-0.log").read_text()
    assert_close(command, root, one)


@pytest.mark.parametrize("shard_above", [0.0, 1e9], ids=["sharded", "whole"])
@pytest.mark.parametrize("command", [AR, "decoder"])
def test_three_processes_resume_to_the_bits_of_an_uninterrupted_training(command, shard_above, inputs, tmp_path):
    undisturbed = workplace(tmp_path / "a", inputs, shard_above=shard_above)
    assert run_together(command, undisturbed, 3) == [0, 0, 0]
    killed = workplace(tmp_path / "b", inputs, shard_above=shard_above, checkpoint_share=1.0)
    kill_half_way(command, killed, 3)
    assert run_together(command, killed, 3) == [0, 0, 0]
    assert "resuming at step" in (killed / f"{command}-2.log").read_text()
    for folder in (out_of(command), Path("reports", *out_of(command).parts[1:])):
        assert toys.hashes(killed / folder) == toys.hashes(undisturbed / folder)


def test_a_sharded_training_goes_on_in_another_number_of_processes(inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, shard_above=0.0, checkpoint_share=1.0)
    for count in (1, 3, 2):
        kill_half_way(AR, root, count)
    toys.run(AR, root)
    assert_close(AR, root, one)


def kill_half_way(command: str, root: Path, count: int) -> None:
    """Kill all processes once two more steps are saved."""
    before = step_saved(root)
    with ranks(command, root, count) as children:
        while step_saved(root) < before + 2:
            assert all(child.is_alive() for child in children), f"{command} ended before it could be killed"
            time.sleep(0.002)
    assert not (root / out_of(command)).exists(), "killed too late to prove anything"


def step_saved(root: Path) -> int:
    latest = next(root.glob("scratch/*/*/latest.json"), None)
    return json.loads(latest.read_text())["step"] if latest else 0


def test_activations_computed_again_change_no_bit(inputs, one, tmp_path, monkeypatch):
    root = workplace(tmp_path / "toy", inputs, recompute_activations=True)
    calls = counted_forwards(monkeypatch)
    toys.run(AR, root)
    assert calls["backward"] == 12 * 2, "in each of 12 steps, both blocks"
    assert toys.hashes(root / out_of(AR)) == toys.hashes(one / out_of(AR))


def counted_forwards(monkeypatch) -> Counter:
    """How many forward passes of transformer blocks run inside a backward pass, and outside."""
    calls, forward = Counter(), transformer.Block.forward

    def count(self, *inputs):
        calls["backward" if torch._C._current_graph_task_id() >= 0 else "forward"] += 1
        return forward(self, *inputs)

    monkeypatch.setattr(transformer.Block, "forward", count)
    return calls


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from within torch.compile
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_learn_what_others_learn(recompute, inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, compile="on", recompute_activations=recompute)
    torch._dynamo.reset()
    before = Counter(torch._dynamo.utils.counters["stats"])
    toys.run(AR, root)
    assert (Counter(torch._dynamo.utils.counters["stats"]) - before)["unique_graphs"] >= 1
    assert_close(AR, root, one)


def test_the_death_of_one_process_ends_the_others_and_the_next_run_continues(inputs, one, tmp_path):
    root = workplace(tmp_path / "toy", inputs, checkpoint_share=1.0)
    command = [sys.executable, "-m", *shlex.split(toys.line_of(AR))]
    env = {**os.environ, "NPROC": "2", "PYTHONPATH": str(toys.ROOT)}
    with subprocess.Popen(command, cwd=root, env=env, stderr=subprocess.PIPE, text=True) as launcher:
        while step_saved(root) < 2:
            time.sleep(0.002)
        victim = next(pid for pid in descendants(launcher.pid) if env_of(pid).get("RANK") == "1")
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode and "SIGKILL" in said and time.monotonic() - killed < 60
    again = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert again.returncode == 0 and "resuming at step" in again.stdout, again.stderr
    assert_close(AR, root, one)


def test_processes_that_do_not_agree_stop_before_any_step(tmp_path):
    (tmp_path / "differ.py").write_text(
        "from stages.core import hardware, runtime\n"
        "from stages.core.distributed import rank\n"
        "with hardware.process_group():\n"
        "    hardware.check_agreement('the start of a training', ['key', 10 * rank()])\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    env = {**os.environ, "PYTHONPATH": str(toys.ROOT)}
    command = [*launch, "--nproc-per-node", "2", tmp_path / "differ.py"]
    said = subprocess.run(command, env=env, capture_output=True, text=True)
    assert said.returncode and "processes 0 and 1 differ in the start of a training: ['key', 0] and ['key', 10]" in (
        said.stderr
    )


def descendants(pid: int) -> list[int]:
    """The pids of all processes below one."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def env_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
