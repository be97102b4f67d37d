"""The vqkd tokenizer that the codebook stage trains on the toy pipeline: resume, artifact, warnings, refusals.

Run: uv run pytest tests/test_vqkd_stage.py
"""

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
import toy as toys

from stages.codebook import vqkd
from stages.codebook.params import Inputs, load_params
from stages.codebook.tokenizer import load_tokenizer
from stages.codebook.vqkd_encoder import EmaVq
from stages.core import UserError, artifact
from stages.core.checkpoint import Checkpoint
from stages.core.images import to_float
from stages.data.reader import ImageSplit


def fit(root, changes: dict | None = None, checkpoint_share: float = 0.02) -> None:
    """The command, as it is called."""
    toys.write_params(root, {"codebook": {"vqkd": changes or {}}, "machine": {"checkpoint_share": checkpoint_share}})
    toys.run_line(toys.COMMANDS["tokenizer_inputs"].replace("kmeans", "vqkd"), root)
    toys.run_line(toys.COMMANDS["codebook"].replace("kmeans", "vqkd"), root)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """The toy with an undisturbed vqkd. Read only."""
    root = tmp_path_factory.mktemp("vqkd") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    fit(root)
    return root


@pytest.fixture
def root(toy, tmp_path):
    return shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))


class Killed(Exception):
    """What ends a run after a checkpoint."""


def test_interrupted_and_rerun_equals_undisturbed(trained, root, monkeypatch, capsys):
    def save_and_die(self, facts, save=Checkpoint.save):
        save(self, facts)
        self.finish()
        if facts["step"] == 7:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Checkpoint, "save", save_and_die)
        fit(root, checkpoint_share=1.0)
    assert not (root / "data/codebook/vqkd").exists()
    fit(root)
    assert "resuming at step 7" in capsys.readouterr().out
    for folder in ("data/codebook/vqkd", "reports/codebook/vqkd"):
        assert toys.hashes(root / folder) == toys.hashes(trained / folder)


def test_the_artifact_is_a_tokenizer_whose_codes_fit_its_encoder(trained):
    tokenizer = load_tokenizer(trained / "data/codebook/vqkd")
    metrics = json.loads((trained / "reports/codebook/vqkd/metrics.json").read_text())
    images = ImageSplit(trained / "data/images", "val")
    codes = tokenizer.encode(images.read(range(len(images))))
    assert codes.shape == (len(images), 16) and codes.dtype == np.int64
    assert len(np.unique(codes)) == metrics["val"]["live_codes"], "the published weights are those that were measured"
    torch.testing.assert_close(tokenizer.vectors(np.arange(8)).norm(dim=-1), torch.ones(8))
    features = tokenizer.features(to_float(images.read(range(4))))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(4, 16))
    assert {"train", "val"} == set(metrics["cosine_loss"])


def test_a_little_training_lowers_the_cosine_loss(root):
    fit(root, {"optim": {"total_steps": 40, "eval_share": 0.5, "lr_peak": 3.0e-3}})
    lines = (root / "reports/codebook/vqkd/plots/metrics/val/cosine_loss.tsv").read_text().splitlines()[1:]
    first, last = (float(line.split("\t")[1]) for line in lines)
    assert last < 0.95 * first


def test_a_collapse_is_said_with_its_remedy(root, capsys, monkeypatch):
    monkeypatch.setattr(EmaVq, "start_from", lambda self, unit_MD: None)  # random codes, none revived
    fit(root, {"num_codes": 100, "revive_dead_codes": False})
    said, metrics = capsys.readouterr().err, json.loads((root / "reports/codebook/vqkd/metrics.json").read_text())
    assert f"warning: vqkd: only {metrics['train']['live_codes']} of 100 codes" in said
    assert "revive_dead_codes: true" in said and "commitment" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_codes": 129}, ["codebook.vqkd.num_codes = 129", "128 patches", "batch_size"]),
        ({"encoder": {"dim": 40}}, ["codebook.vqkd.encoder.dim = 40", "multiple of 32"]),
        ({"encoder": {"heads": 3}}, ["heads = 3", "divisor"]),
        ({"code_decay": 1.0}, ["codebook.vqkd.code_decay = 1.0", "less than 1"]),
        ({"dim": 1}, ["codebook.vqkd.dim = 1", "greater than 1"]),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(root, changes, words):
    with pytest.raises(UserError) as said:
        fit(root, changes)
    assert all(word in str(said.value) for word in words), said.value


def test_a_teacher_whose_patches_the_encoder_cannot_have_is_refused(root):
    config = artifact.read(root / "data/features")
    (root / "data/features/config.json").write_bytes(artifact.with_checksum({**config, "num_patches": 9}))
    toys.write_params(root)
    inputs = Inputs("vqkd", *(root / "data" / name for name in ("images", "encoder", "features")), root, root)
    with pytest.raises(UserError, match="data.img_px = 16: the teacher has 3 patches per side"):
        vqkd.check(inputs, load_params("vqkd", root / "params.yaml"))
    assert artifact.read_config(root / "data/encoder", "encoder")["patch_px"] == 4
