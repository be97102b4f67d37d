"""Linear probes of every layer of a generator. Run: uv run pytest tests/test_layer_probe.py"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy as toys
from toy_pipeline import MACHINE, write_encoder, write_image_artifact, write_images

from stages.core import artifact
from stages.encoder.encoder import load_encoder
from stages.generator import ar, ar_bits, masked, parallel_ar
from stages.generator.transformer import TokenTransformer, build_network
from stages.studies.code_layers import layers_of_codes, untrained
from stages.studies.generator_layers import probe_pixels
from stages.studies.layer_means import layers_of_pixels
from stages.studies.layer_scores import fit_head, folds_of, obstacle, score_by_folds, summary
from stages.studies.params import LayerProbe

PARAMS = LayerProbe(max_images=1000, folds=3, scaling="all", inverse_regularization=1.0, seed=0)
SHAPE = {"num_codes": 20, "num_classes": 3, "num_patches": 16, "grid": 4, "dim": 32, "depth": 3, "heads": 2,
         "dropout": 0.0, "local": 0}  # fmt: skip
KINDS = {"ar": ar, "masked": masked, "parallel_ar": parallel_ar, "ar_bits": ar_bits}
CODES = torch.randint(20, (6, 16), generator=torch.Generator().manual_seed(0))


def network_of(kind: str, **changes):
    torch.manual_seed(0)
    return build_network(KINDS[kind], {**SHAPE, "causal": KINDS[kind].CAUSAL, **changes}).eval()


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_layers_are_what_blocks_read_and_the_last_gives_without_a_class(kind):
    network = network_of(kind)
    read = CODES[:, :-1] if kind == "ar" else CODES
    with torch.no_grad():
        none = network.embed_class(torch.full((6, 1), 3))
        x = torch.cat([none, network.embed_code(read)], 1) + network.embed_position[: 1 + read.shape[1]]
        expected = [x.mean(1)]
        for block in network.blocks:
            x = block(x, None, 0)
            expected.append(x.mean(1))
    found = layers_of_codes(network).means(CODES.split(4))
    assert len(found) == 4 and all(one.dtype == np.float32 for one in found)
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_layer_more_than_blocks_and_keeps_no_hook(kind):
    network = network_of(kind)
    found = layers_of_codes(network).means([CODES])
    assert [one.shape for one in found] == [(6, 32)] * 4
    assert all(np.ptp(one, axis=0).max() > 0 for one in found), "images differ"
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in network.modules())


def test_of_a_caption_only_the_null_position_is_in_the_mean():
    network = network_of("masked", num_classes=0, caption={"length": 5, "vocabulary": 9})
    assert isinstance(network, TokenTransformer)
    with torch.no_grad():
        x, _ = network.prefix(network.null(6))
        x = torch.cat([x, network.embed_code(CODES)], 1) + network.embed_position
    np.testing.assert_allclose(layers_of_codes(network).means([CODES])[0], x[:, 4:].mean(1), atol=1e-6)


def test_layers_of_an_encoder_end_with_its_last_block(tmp_path):
    write_encoder(tmp_path / "encoder")
    encoder, pixels = load_encoder(tmp_path / "encoder"), torch.rand(3, 3, 16, 16) * 2 - 1
    found = layers_of_pixels(encoder).means([pixels])
    blocks = encoder(pixels, blocks=[0, 1], final_norm=False)
    assert len(found) == 3
    for one, wanted in zip(found[1:], blocks, strict=True):
        np.testing.assert_allclose(one, wanted.mean(1), atol=1e-6)


def test_an_untrained_network_is_seeded_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    one, same, other = (untrained(ar, {**SHAPE, "causal": True}, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.embed_code.weight, same.embed_code.weight)
    assert not torch.equal(one.embed_code.weight, other.embed_code.weight)


# --- scores -----------------------------------------------------------------------------------------------------------


def classes_in_a_column(images: int, rng, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, and features of which one column shows them and nine do not."""
    labels = np.arange(images) % 3
    features = rng.normal(0, noise, (images, 10))
    features[:, 0] += labels
    return features.astype(np.float32), labels


def test_a_layer_that_shows_the_class_is_read_and_one_that_does_not_is_chance():
    rng = np.random.default_rng(0)
    (train, train_labels), (val, val_labels) = (classes_in_a_column(count, rng) for count in (90, 60))
    good = score_by_folds(
        train, train_labels, val, val_labels, PARAMS.model_copy(update={"inverse_regularization": 1e3})
    )
    assert good["accuracy"] == good["held_out"] == 1 and good["accuracy_std"] == good["accuracy_image_std"] == 0
    bad = score_by_folds(train[:, 1:], train_labels, val[:, 1:], val_labels, PARAMS)
    assert bad["accuracy"] < 0.6 > bad["held_out"] and bad["accuracy_std"] > 0 < bad["accuracy_image_std"]
    share = bad["accuracy"]
    assert bad["accuracy_image_std"] == pytest.approx((share * (1 - share) / 60) ** 0.5)


def test_columns_scaled_one_by_one_show_what_one_loud_column_hides():
    rng = np.random.default_rng(0)
    (train, labels), (val, val_labels) = (classes_in_a_column(count, rng) for count in (90, 60))
    for features in (train, val):
        features[:, 1] *= 1e5
    hits = {}
    for scaling in ("all", "columns"):
        head = fit_head(train, labels, PARAMS.model_copy(update={"scaling": scaling}))
        hits[scaling] = (head(val) == val_labels).mean()
    assert hits["columns"] > 0.95 > 0.6 > hits["all"]


def test_train_decides_on_the_best_layer_and_val_does_not():
    rows = [{"accuracy": accuracy, "accuracy_std": 0.0, "accuracy_image_std": 0.1, "held_out": held_out}
            for accuracy, held_out in ((0.9, 0.5), (0.6, 0.7), (0.7, 0.7), (0.8, 0.6))]  # fmt: skip
    found = summary(rows)
    assert (found["best_layer"], found["best"]) == (1, 0.6), "the first of two equal ones"
    assert (found["middle_layer"], found["middle"], found["last_layer"], found["last"]) == (1, 0.6, 3, 0.8)


def test_folds_hold_every_image_once_and_spread_each_class():
    labels = np.repeat([4, 0, 7], [6, 30, 2])
    folds = folds_of(labels, PARAMS)
    assert np.bincount(folds[labels == 4]).tolist() == [2, 2, 2]
    assert sorted(np.bincount(folds[labels == 0])) == [10, 10, 10] and len({*folds[labels == 7]}) == 2
    assert np.array_equal(folds, folds_of(labels, PARAMS))
    assert not np.array_equal(folds, folds_of(labels, PARAMS.model_copy(update={"seed": 1})))


@pytest.mark.parametrize(("train", "val", "why"), [
    ([0, 0, 1, 1], [0, 1], ""),
    ([-1, 0, 1, 1], [0, 1], "no classes"),
    ([0, 0, 0], [0], "no classes"),
    ([0, 0, 1, 2], [0], "fewer than two classes with two train images: no layer can be chosen"),
])  # fmt: skip
def test_what_cannot_be_probed_is_named(train, val, why):
    assert obstacle(np.array(train), np.array(val)) == why


# --- the study --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(toy, tmp_path_factory) -> Path:
    """A toy pipeline with two generators and their probes."""
    root = tmp_path_factory.mktemp("layer_probe") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    for name in ("ar", "masked"):
        toys.run(f"generator@kmeans-{name}", root)
        toys.run(f"layer_probe@kmeans-{name}", root)
    return root


def metrics_of(root: Path, name: str) -> dict:
    return json.loads((root / f"reports/layer_probe/{name}/metrics.json").read_text())


def test_layers_of_both_networks_stand_beside_the_codes_with_what_was_given(root):
    found = {name: metrics_of(root, f"kmeans-{name}") for name in ("ar", "masked")}
    for name, metrics in found.items():
        assert set(metrics) == {"images", "generator", "codes", "trained", "untrained", "layers", "protocol"}
        assert metrics["generator"] == {"name": name, "kind": name, "tokenizer": "kmeans", "num_codes": 8,
                                        "condition": "none: the null class"}  # fmt: skip
        for network in ("trained", "untrained"):
            rows, best = metrics["layers"][network], metrics[network]
            assert [row["layer"] for row in rows] == [0, 1, 2]
            assert best["best"] == rows[best["best_layer"]]["accuracy"] and best["last_layer"] == 2
            assert rows[best["best_layer"]]["held_out"] == max(row["held_out"] for row in rows)
        assert metrics["layers"]["trained"] != metrics["layers"]["untrained"]
        assert 0.25 < metrics["codes"]["bag"] <= 1
    assert found["ar"]["protocol"] == found["masked"]["protocol"] and found["ar"]["codes"] == found["masked"]["codes"]


def test_a_second_run_gives_the_same_bytes(root):
    path = root / "reports/layer_probe/kmeans-ar/metrics.json"
    before = path.read_bytes()
    toys.run("layer_probe@kmeans-ar", root)
    assert path.read_bytes() == before


def test_a_generator_that_never_was_without_a_class_is_left_out(root):
    folder = root / "data/generator/kmeans-ar"
    config = json.loads((folder / "config.json").read_text())
    facts = {key: value for key, value in config.items() if key not in ("artifact", "files", "checksum")}
    with artifact.new_artifact(root / "dropped", "generator", {**facts, "class_dropout": 0.0}) as out:
        shutil.copy(folder / "model.safetensors", out)
    line = toys.line_of("layer_probe@kmeans-ar").replace("data/generator/kmeans-ar", "dropped")
    toys.run_line(line.replace("reports/layer_probe/kmeans-ar", "reports/dropped"), root)
    found = json.loads((root / "reports/dropped/metrics.json").read_text())
    assert "ar was trained with class_dropout 0, so never without a class" in found["skipped"]


def test_an_encoder_of_images_is_probed_alike_and_images_without_classes_are_skipped(tmp_path):
    write_encoder(tmp_path / "encoder")
    write_images(tmp_path / "images")
    probe_pixels(tmp_path / "images", tmp_path / "encoder", tmp_path / "report", PARAMS, MACHINE)
    found = json.loads((tmp_path / "report/metrics.json").read_text())
    assert [len(found["layers"][name]) for name in ("trained", "untrained")] == [3, 3] and "codes" not in found
    assert found["encoder"] == {"name": "embedded", "condition": "none: it reads images"}
    assert all(row["accuracy"] > 0.3 for row in found["layers"]["trained"]), "of ten classes"
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    write_image_artifact(tmp_path / "plain", images, np.full(30, -1), [])
    probe_pixels(tmp_path / "plain", tmp_path / "encoder", tmp_path / "report", PARAMS, MACHINE)
    found = json.loads((tmp_path / "report/metrics.json").read_text())
    assert found["skipped"] == "no classes" and found["images"] == artifact.images_digest(tmp_path / "plain")
