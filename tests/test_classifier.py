"""The classifier stage. Run: pytest tests/test_classifier.py"""

import json

import numpy as np
import pytest
import torch
import toy
from scoring import CLASSIFIER, write_classifier
from toy_pipeline import MACHINE, write_image_artifact, write_images

from stages.core import UserError
from stages.core.artifact import images_digest
from stages.core.images import augmented, random_maps, to_float
from stages.core.params import load
from stages.data.reader import ImageSplit
from stages.evaluate.classifier import Classifier, load_classifier
from stages.evaluate.classifier_training import accuracy, loss_fn
from stages.evaluate.params import ClassifierParams


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifier")
    write_images(root / "images")
    write_classifier(root / "images", root / "classifier", MACHINE)
    return root


def test_the_classifier_knows_real_val_images_and_says_how_well(digits):
    classifier, val = load_classifier(digits / "classifier"), ImageSplit(digits / "images", "val")
    found = accuracy(classifier, val, 30, torch.device("cpu"))
    logits = classifier(to_float(val.read(range(len(val)))))[1]
    assert found == float((logits.argmax(1).numpy() == val.labels).mean()) > 0.8
    written = json.loads((digits / "classifier-report" / "metrics.json").read_text())
    assert written["val_accuracy"] == pytest.approx(found, rel=1e-5)


def test_features_are_mean_and_maximum_and_large_images_are_averaged_down():
    torch.manual_seed(0)
    classifier, pixels = Classifier(img_px=8, widths=[8, 16], num_classes=3).eval(), torch.rand(2, 3, 8, 8)
    features, logits = classifier(pixels)
    maps = classifier.layers(pixels)
    assert features.shape == (2, classifier.dim) == (2, 32) and logits.shape == (2, 3)
    assert torch.equal(features, torch.cat([maps.flatten(2).mean(2), maps.flatten(2).amax(2)], 1))
    doubled = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(classifier(doubled)[0], features, atol=1e-6)


def test_a_second_training_that_was_stopped_and_resumed_gives_the_same_bytes(digits, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*_: object) -> float:
        raise Stop

    again = tmp_path / "again"
    again.mkdir()
    saving = MACHINE.model_copy(update={"checkpoint_share": 1.0})
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("stages.evaluate.classifier_training.accuracy", stop)
        write_classifier(digits / "images", again / "classifier", saving)
    assert list(again.glob("scratch/**/*.distcp"))
    write_classifier(digits / "images", again / "classifier", MACHINE)
    written = [(root / "classifier" / "model.safetensors").read_bytes() for root in (digits, again)]
    assert written[0] == written[1]


def test_unlabeled_images_are_left_out_and_no_class_means_no_classifier(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    write_image_artifact(tmp_path / "images", images, np.full(40, -1), [])
    write_classifier(tmp_path / "images", tmp_path / "classifier", MACHINE)
    assert load_classifier(tmp_path / "classifier") is None
    written = json.loads((tmp_path / "classifier-report" / "metrics.json").read_text())
    assert written == {"skipped": "no classes", "images": images_digest(tmp_path / "images")}


def test_impossible_params(tmp_path):
    toy.write_params(tmp_path, {"classifier": {"widths": [0]}})
    with pytest.raises(UserError, match="classifier.widths.*positive numbers of channels"):
        load("classifier", ClassifierParams, tmp_path / "params.yaml")


def test_images_are_augmented_in_fp32_whatever_the_network_computes_in():
    params = CLASSIFIER.model_copy(update={"optim": CLASSIFIER.optim.model_copy(update={"precision": "bf16"})})
    seen, rng = [], torch.Generator().manual_seed(0)
    images, maps = torch.randint(256, (4, 16, 16, 3), dtype=torch.uint8), random_maps(4, params.augment, rng)

    def model(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(pixels)
        return pixels, torch.zeros(4, 3)

    loss_fn(params, torch.device("cpu"))(model, (images, maps, torch.zeros(4, dtype=torch.int64)), 0)
    assert torch.equal(seen[0], augmented(images, maps))
