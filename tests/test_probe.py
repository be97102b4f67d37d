"""The linear probe on toy images. Run: pytest tests/test_probe.py"""

import json

import numpy as np
import pytest
from torch.nn import Identity
from toy_pipeline import MACHINE, write_encoder, write_image_artifact, write_images

from stages.core import UserError
from stages.core.artifact import images_digest
from stages.core.distributed import random_subset
from stages.core.schemas import Affine
from stages.data.reader import ImageSplit
from stages.studies.encoder_probe import Inputs, few_label_draws, probe
from stages.studies.params import Probe

IDENTITY = Affine(degrees=0.0, scale=0.0, translate=0.0, shear=0.0, hflip=False)
AUGMENTED = Affine(degrees=30.0, scale=0.25, translate=0.15, shear=0.2, hflip=False)
PARAMS = Probe(block=-1, final_norm=True, raw_px=16, max_images=1000, augmented=AUGMENTED, shots=5, few_draws=3,
               inverse_regularization=0.1, seed=7)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")
    write_images(root / "images")
    write_encoder(root / "encoder")
    return root


def run(toy, report, **changes) -> dict:
    probe(Inputs(toy / "images", toy / "encoder"), report, PARAMS.model_copy(update=changes), MACHINE)
    return json.loads((report / "metrics.json").read_text())


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder of a report and its metrics, which tests only read."""
    report = tmp_path_factory.mktemp("report")
    return report, run(toy, report)


def test_three_feature_sets_four_tests_and_a_protocol(whole):
    report, metrics = whole
    assert set(metrics) == {"images", "raw", "random_twin", "encoder", "layers", "protocol"}
    assert all(0 <= value <= 1 for name in ("raw", "random_twin", "encoder") for value in metrics[name].values())
    assert metrics["raw"]["clean"] > 0.85 > 0.6 > metrics["raw"]["augmented"]
    assert metrics["random_twin"] != metrics["encoder"]
    assert metrics["protocol"][0]["augmented"] == AUGMENTED.model_dump() and (report / "augmented.png").is_file()


def test_every_layer_of_both_networks_is_probed(whole):
    layers = whole[1]["layers"]
    assert {*layers} == {"random_twin", "encoder"} and layers["encoder"] != layers["random_twin"]
    for rows in layers.values():
        assert [row["layer"] for row in rows] == [0, 1, 2] and all(0 < row["accuracy"] <= 1 for row in rows)


def test_a_final_norm_that_the_encoder_lacks_is_refused(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.encoder.encoder.last_norm", lambda vit: Identity())
    with pytest.raises(UserError, match="probe.final_norm = True.*expected false"):
        run(toy, tmp_path)


def test_an_identity_map_changes_nothing(toy, tmp_path):
    metrics = run(toy, tmp_path, augmented=IDENTITY)
    for name in ("raw", "encoder"):
        assert metrics[name]["clean"] == metrics[name]["augmented"]
        assert metrics[name]["few_clean"] == metrics[name]["few_augmented"]


def test_two_runs_give_the_same_bytes(toy, whole, tmp_path):
    run(toy, tmp_path)
    for name in ("metrics.json", "augmented.png"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_at_most_max_images_are_used(toy, tmp_path):
    entry = run(toy, tmp_path, max_images=90, shots=2)["protocol"][0]
    assert entry["train_images"] == entry["val_images"] == 90


def test_draws_are_balanced_and_differ():
    labels = np.repeat(np.arange(4), 20)
    draws = few_label_draws(labels, PARAMS)
    assert all((np.bincount(labels[draw]) == 5).all() for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 3


def test_images_without_classes_are_skipped(toy, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    write_image_artifact(tmp_path / "images", images, np.full(30, -1), [])
    probe(Inputs(tmp_path / "images", toy / "encoder"), tmp_path / "report", PARAMS, MACHINE)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics == {"skipped": "no classes", "images": images_digest(tmp_path / "images")}


def test_impossible_settings_are_named(toy, tmp_path):
    with pytest.raises(UserError, match=r"probe.block = 2: the encoder has 2 blocks: expected -2 … 1"):
        run(toy, tmp_path, block=2)


def test_of_a_class_with_few_images_all_are_drawn():
    labels = np.repeat(np.arange(3), [20, 2, 1])
    for draw in few_label_draws(labels, PARAMS):
        assert np.bincount(labels[draw]).tolist() == [5, 2, 1]


def test_val_images_of_a_class_that_no_train_image_used_shows_are_not_asked_for(toy, tmp_path):
    """Of 20 train images used, some of the ten digits are missing."""
    metrics = run(toy, tmp_path, max_images=20, seed=3)
    entry, splits = metrics["protocol"][0], {name: ImageSplit(toy / "images", name) for name in ("train", "val")}
    labels = {name: split.labels[random_subset(len(split), 20, 3)] for name, split in splits.items()}
    known = np.isin(labels["val"], labels["train"])
    assert entry["val_images"] == known.sum() < 20 and entry["classes"] == len(np.unique(labels["train"])) < 10
    assert entry["val_classes"] == len(np.unique(labels["val"][known])) and entry["fewest_train_images_of_a_class"] == 1


def test_the_choice_is_seeded_sorted_and_without_repetition():
    assert random_subset(5, 9, 0).tolist() == random_subset(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    some = random_subset(1000, 100, 0).tolist()
    assert some == sorted(set(some)) == random_subset(1000, 100, 0).tolist() and len(some) == 100 and max(some) < 1000
    assert some != random_subset(1000, 100, 1).tolist()
