"""The judge stage. Run: pytest tests/test_judge.py"""

import contextlib
import json

import numpy as np
import pytest
import torch
import toy
from toy_pipeline import MACHINE, train_judge, write_image_artefact, write_images

from stages.core.params import load
from stages.core.pixels import to_float
from stages.data.reader import ImageSplit
from stages.judge.model import Judge, load_judge
from stages.judge.train import Params, accuracy, make


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("judge")
    write_images(root / "images")
    train_judge(root / "images", root / "judge")
    return root


def test_the_judge_knows_real_val_images_and_says_how_well(digits):
    judge, val = load_judge(digits / "judge"), ImageSplit(digits / "images", "val")
    found = accuracy(judge, val, 30, torch.device("cpu"))
    logits = judge(to_float(val.read(range(len(val)))))[1]
    assert found == float((logits.argmax(1).numpy() == val.labels).mean()) > 0.8
    written = json.loads((digits / "judge-report" / "metrics.json").read_text())
    assert written["val_accuracy"] == pytest.approx(found, rel=1e-5)


def test_features_are_mean_and_maximum_and_large_images_are_averaged_down():
    torch.manual_seed(0)
    judge, pixels = Judge(img_px=8, widths=[8, 16], num_classes=3).eval(), torch.rand(2, 3, 8, 8)
    features, logits = judge(pixels)
    maps = judge.layers(pixels)
    assert features.shape == (2, judge.dim) == (2, 32) and logits.shape == (2, 3)
    assert torch.equal(features, torch.cat([maps.flatten(2).mean(2), maps.flatten(2).amax(2)], 1))
    doubled = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(judge(doubled)[0], features, atol=1e-6)


def test_two_trainings_give_the_same_bytes_and_a_resumed_one_too(digits, tmp_path, monkeypatch):
    train_judge(digits / "images", tmp_path / "judge")
    wanted = (digits / "judge" / "model.safetensors").read_bytes()
    assert (tmp_path / "judge" / "model.safetensors").read_bytes() == wanted

    class Stop(Exception):
        pass

    def stop(*_: object) -> float:
        raise Stop

    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.setattr("toy_pipeline.MACHINE", MACHINE.model_copy(update={"checkpoint_secs": 0.0}))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("stages.judge.train.accuracy", stop)
        train_judge(digits / "images", again / "judge")
    assert list(again.glob("scratch/**/*.safetensors"))
    train_judge(digits / "images", again / "judge")
    assert (again / "judge" / "model.safetensors").read_bytes() == wanted


def test_unlabelled_images_are_left_out_and_no_class_means_no_judge(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    write_image_artefact(tmp_path / "images", images, np.full(40, -1), [])
    train_judge(tmp_path / "images", tmp_path / "judge")
    assert load_judge(tmp_path / "judge") is None
    assert json.loads((tmp_path / "judge-report" / "metrics.json").read_text()) == {"skipped": "no classes"}


def test_the_toy_command_and_impossible_params(tmp_path, digits):
    params = load("judge", Params, toy.write_params(tmp_path))
    with contextlib.chdir(tmp_path):
        make(digits / "images", tmp_path / "judge", tmp_path / "report", params, MACHINE)
    assert load_judge(tmp_path / "judge").dim == 16
    from stages.core.errors import UserError

    toy.write_params(tmp_path, {"judge": {"widths": [0]}})
    with pytest.raises(UserError, match="judge.widths.*positive numbers of channels"):
        load("judge", Params, tmp_path / "params.yaml")
