"""Kinds of generators that the default run does not list go through their stages: killed, resumed, in two processes.

Run: uv run pytest tests/test_generator_stages.py
"""

import json
import shutil
import time
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch
import toy as toys
from ranks import run_together
from safetensors.torch import load_file

from stages.core import artifact
from stages.cost import Costs
from stages.cost_images import Images

TRAIN, SAMPLE = "generator@kmeans-ar", "samples@kmeans-ar"
GENERATOR, SAMPLES = Path("data/generator/kmeans-ar"), Path("data/samples/kmeans/ar")
SETTINGS = {"parallel_ar": {"steps": 4, "schedule": "arccos"}, "ar_bits": {"bit_steps": 2}}


def workplace(kind: str, toy: Path, root: Path, **machine) -> Path:
    """The toy with a generator `ar` of another kind."""
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    changes = {"generator": {"ar": {"kind": kind}}, "samples": {"ar": {**SETTINGS[kind], "precision": "fp32"}}}
    toys.write_params(root, {**changes, "machine": machine})
    return root


@pytest.fixture(scope="module", params=SETTINGS)
def one(request, toy, tmp_path_factory):
    """Trained and sampled by one process."""
    root = workplace(request.param, toy, tmp_path_factory.mktemp(request.param) / "toy")
    for command in (TRAIN, SAMPLE):
        toys.run(command, root)
    return root


def kind_of(root: Path) -> str:
    return artifact.read_config(root / GENERATOR, "generator")["kind"]


def test_artifacts_say_what_they_are(one):
    config, drawn = (artifact.read_config(one / path, path.parts[1]) for path in (GENERATOR, SAMPLES))
    assert config["likelihood"]["bound"] == "upper" and config["likelihood"]["val_perplexity"] > 1
    assert drawn["sampling"].items() > SETTINGS[config["kind"]].items()
    codes = np.load(one / SAMPLES / "codes.npy")
    assert codes.shape == (2, 20, 16) and codes.max() < 8 and len(np.unique(codes[0], axis=0)) > 10


def test_a_killed_training_ends_in_the_bytes_of_an_undisturbed_one(one, toy, tmp_path, capsys):
    root = workplace(kind_of(one), toy, tmp_path / "toy", checkpoint_share=1.0)
    with toys.process(TRAIN, root) as child:
        while (latest := next(root.glob("scratch/*/*/latest.json"), None)) is None or saved_at(latest) < 5:
            assert child.is_alive(), "ended before it could be killed"
            time.sleep(0.002)
        child.kill()
        child.join()
    assert not (root / GENERATOR).exists(), "killed too late to prove anything"
    capsys.readouterr()
    toys.run(TRAIN, root)
    assert "resuming at step" in capsys.readouterr().out
    assert toys.hashes(root / GENERATOR) == toys.hashes(one / GENERATOR)


def saved_at(latest: Path) -> int:
    return json.loads(latest.read_text())["step"]


def test_two_processes_train_and_sample_what_one_does(one, toy, tmp_path):
    root = workplace(kind_of(one), toy, tmp_path / "toy")
    assert run_together(TRAIN, root) == [0, 0]
    alone, together = (load_file(path / GENERATOR / "model.safetensors") for path in (one, root))
    for name, weights in alone.items():
        torch.testing.assert_close(together[name], weights, atol=1e-4, rtol=1e-3)
    shutil.rmtree(root / GENERATOR)
    shutil.copytree(one / GENERATOR, root / GENERATOR)
    assert run_together(SAMPLE, root) == [0, 0]
    assert toys.hashes(root / SAMPLES) == toys.hashes(one / SAMPLES)


def test_its_cost_is_counted(one, monkeypatch):
    monkeypatch.chdir(one)
    costs = Costs(Path("params.yaml"), Images(30, 10, 4)).stages()
    found = dict(takewhile(lambda one: not one[0].startswith("alternating"), costs))  # what comes after takes seconds
    assert found[TRAIN].flops > 0 and found[SAMPLE].flops > 0
