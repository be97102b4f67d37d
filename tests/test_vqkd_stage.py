"""The vqkd tokenizer that the codebook stage trains on the toy pipeline: resume, artefact, warnings, refusals.

Run: uv run pytest tests/test_vqkd_stage.py
"""

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
import toy as toys

from stages.codebook import fit as command
from stages.codebook.ema import EmaVq
from stages.codebook.model import load_tokenizer
from stages.codebook.sources import Sources
from stages.core import artefact
from stages.core.checkpoint import Checkpoint
from stages.core.errors import UserError
from stages.core.pixels import to_float
from stages.data.reader import ImageSplit


def fit(root, changes: dict | None = None, checkpoint_secs: float = 1e9) -> None:
    """The command, as it is called."""
    toys.write_params(root, {"codebook": {"vqkd": changes or {}}, "machine": {"checkpoint_secs": checkpoint_secs}})
    line = toys.COMMANDS["codebook"].replace("kmeans", "vqkd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(toys.COMMANDS, "vqkd", line)
        toys.run("vqkd", root)


@pytest.fixture
def root(toy, tmp_path):
    return shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))


class Killed(Exception):
    """What ends a run after a checkpoint."""


def test_interrupted_and_rerun_equals_undisturbed(root, monkeypatch, capsys):
    fit(root)
    undisturbed = toys.hashes(root / "data/codebook/vqkd")
    curves = toys.hashes(root / "reports/codebook/vqkd")
    shutil.rmtree(root / "data/codebook/vqkd")

    def save_and_die(self, facts, save=Checkpoint.save):
        save(self, facts)
        if facts["step"] == 7:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Checkpoint, "save", save_and_die)
        fit(root, checkpoint_secs=0.0)
    assert not (root / "data/codebook/vqkd").exists()
    fit(root)
    assert "resuming at step 7" in capsys.readouterr().out
    assert toys.hashes(root / "data/codebook/vqkd") == undisturbed
    assert toys.hashes(root / "reports/codebook/vqkd") == curves
    assert not list(root.glob("scratch/codebook-vqkd/*"))


def test_the_artefact_is_a_tokenizer_whose_codes_fit_its_encoder(root):
    fit(root)
    tokenizer = load_tokenizer(root / "data/codebook/vqkd")
    figures = json.loads((root / "reports/codebook/vqkd/metrics.json").read_text())
    images = ImageSplit(root / "data/images", "val")
    codes = tokenizer.encode(images.read(range(len(images))))
    assert codes.shape == (len(images), 16) and codes.dtype == np.uint16
    assert len(np.unique(codes)) == figures["val"]["live_codes"], "the published weights are those that were measured"
    torch.testing.assert_close(tokenizer.vectors(np.arange(8)).norm(dim=-1), torch.ones(8))
    rows = tokenizer.rows(to_float(images.read(range(4))))
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4, 16))
    assert {"train", "val"} == set(figures["cosine_loss"])


def test_a_little_training_lowers_the_cosine_loss(root):
    fit(root, {"optim": {"total_steps": 40, "eval_every": 20, "lr_peak": 3.0e-3}})
    lines = (root / "reports/codebook/vqkd/plots/metrics/val/cosine_loss.tsv").read_text().splitlines()[1:]
    first, last = (float(line.split("\t")[1]) for line in lines)
    assert last < 0.95 * first


def test_a_collapse_is_said_with_its_remedy(root, capsys, monkeypatch):
    monkeypatch.setattr(EmaVq, "start_from", lambda self, rows: None)  # random codes, and nothing that wakes them
    fit(root, {"num_codes": 100, "reanchor": False})
    said = capsys.readouterr().err
    assert "warning: vqkd: only" in said and "reanchor: true" in said and "commitment" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_codes": 129}, ["codebook.vqkd.num_codes = 129", "128 patches", "batch_size"]),
        ({"student": {"dim": 40}}, ["codebook.vqkd.student.dim = 40", "multiple of 32"]),
        ({"student": {"heads": 3}}, ["heads = 3", "divisor"]),
        ({"code_decay": 1.0}, ["codebook.vqkd.code_decay = 1.0", "less than 1"]),
        ({"dim": 1}, ["codebook.vqkd.dim = 1", "greater than 1"]),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(root, changes, words):
    with pytest.raises(UserError) as said:
        fit(root, changes)
    assert all(word in str(said.value) for word in words), said.value


def test_a_teacher_whose_patches_the_student_cannot_have_is_refused(root):
    path = root / "data/features/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_patches": 9}))
    name, kind = "codebook.vqkd", command.KINDS["vqkd"]
    toys.write_params(root)
    params = command.load_params("vqkd", root / "params.yaml")[1]
    with pytest.raises(UserError, match="data.img_px = 16: the teacher has 3 patches a side"):
        kind.check(name, Sources(root / "data/images", root / "data/encoder", root / "data/features"), params)
    assert artefact.read_config(root / "data/encoder", "encoder")["patch_px"] == 4
