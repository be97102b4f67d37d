"""What codes mean, against brute force and codes of known meaning. Run: pytest tests/test_code_analysis.py"""

import dataclasses
import json
import math

import numpy as np
import pytest
import toy as toys
from pydantic import ValidationError

from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError
from stages.core.metrics import bags, usage
from stages.core.params import Machine, load
from stages.data.reader import ImageSplit
from stages.studies.code_gallery import choose_uses, crops, shown_codes
from stages.studies.code_statistics import ColorProbe, Inputs, Lookup, analyze, class_metrics
from stages.studies.code_survey import Batch, Survey, survey
from stages.studies.linear_probe import LinearMap, class_hits
from stages.studies.params import CodeAnalysis, Gallery, Tsne
from stages.studies.patches import PatchTable, lookup_psnr, patches
from stages.studies.tsne import FeatureSubset, majority_class

RNG_SEED = 3
TSNE = Tsne(features=20, codes=8, classes=2, perplexity=5.0, iterations=250)


def flat_patches(colors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """uint8 [B, N, 2, 2, 3]: each patch filled with its code's color."""
    return np.broadcast_to(colors[codes][:, :, None, None], (*codes.shape, 2, 2, 3)).copy()


def color_batch(images: int, seed: int = RNG_SEED, dim: int = 3) -> tuple[Batch, np.ndarray]:
    """Codes that are the color, features that know nothing of it; and the colors, uint8 [K, 3]."""
    rng = np.random.default_rng(seed)
    colors = np.random.default_rng(0).integers(0, 256, (6, 3), dtype=np.uint8)
    codes = rng.integers(0, 6, (images, 9))
    features = rng.normal(size=(images, 9, dim)).astype(np.float32)
    return Batch(0, flat_patches(colors, codes), codes, features), colors


def read_colors(vectors: np.ndarray, train: Batch, val: Batch) -> dict:
    table, probe = PatchTable(len(vectors), 2), ColorProbe(vectors)
    table.add(train.codes, train.patches)
    probe.learn(train)
    probe.solve(1e-9, table)
    probe.test(val)
    return probe.metrics(draws=5, seed=0)


def test_a_code_that_is_the_color_tells_all_of_it_and_noise_none():
    (train, colors), (val, _) = color_batch(60), color_batch(40, seed=9)
    found = read_colors(colors.astype(np.float32), train, val)
    assert found["one_hot"] == pytest.approx(1) and found["vectors"] == pytest.approx(1, abs=1e-6)
    assert abs(found["features"]) < 0.05 and found["vectors_std"] < 1e-6 < found["features_std"]


def test_colors_that_vectors_do_not_order_linearly_are_lost_to_them_but_not_to_the_code():
    (train, _), (val, _) = color_batch(60, dim=1), color_batch(40, seed=9, dim=1)
    found = read_colors(np.ones((6, 1), np.float32), train, val)
    assert found["one_hot"] == pytest.approx(1) and found["vectors"] == pytest.approx(0, abs=0.02)


def test_color_r2_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    (train, colors), (val, _) = color_batch(30), color_batch(20, seed=9)
    wrong = Batch(0, train.patches, np.random.default_rng(0).permuted(train.codes), train.features)
    found = read_colors(colors.astype(np.float32), wrong, val)
    table = PatchTable(6, 2)
    table.add(wrong.codes, wrong.patches)
    read = (table.means().mean((1, 2)) / 255)[val.codes].reshape(-1, 3)
    expected = r2_score(val.colors.reshape(-1, 3), read, multioutput="variance_weighted")
    assert found["one_hot"] == pytest.approx(expected)


def test_images_of_one_color_have_nothing_to_read():
    batch, colors = color_batch(10)
    gray = Batch(0, np.full_like(batch.patches, 7), batch.codes, batch.features)
    assert read_colors(colors.astype(np.float32), gray, gray) == {"skipped": "all patches have one color"}


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_the_streamed_ridge_is_scikit_learns(ridge):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, targets = rng.normal(5, 2, (200, 7)).astype(np.float32), rng.normal(size=(200, 3))
    streamed = LinearMap(7, 3)
    for start in range(0, 200, 64):
        streamed.add(features[start : start + 64], targets[start : start + 64])
    weights, intercept = streamed.solve(ridge)
    variance = features.astype(np.float64).var(0).mean()
    expected = Ridge(alpha=ridge * 200 * variance, solver="svd").fit(features.astype(np.float64), targets)
    assert np.allclose(features @ weights + intercept, expected.predict(features.astype(np.float64)), atol=1e-8)


def test_the_table_is_the_mean_patch_and_no_table_has_less_error():
    rng = np.random.default_rng(0)
    codes, found = rng.integers(0, 4, (10, 9)), rng.integers(0, 256, (10, 9, 3, 3, 3), dtype=np.uint8)
    table = PatchTable(5, 3)
    table.add(codes[:4], found[:4])
    table.add(codes[4:], found[4:])
    for code in range(4):
        assert np.allclose(table.means()[code], found[codes == code].mean(0))
    assert np.allclose(table.means()[4], found.mean((0, 1))), "a code without uses has the mean of all"
    error = np.square(found - table.means()[codes]).sum()
    for _ in range(5):
        assert np.square(found - (table.means() + rng.normal(size=(5, 3, 3, 3)))[codes]).sum() > error


def test_lookup_psnr_is_that_of_the_picture_laid_from_patches():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    table, codes = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8), rng.integers(0, 5, (4, 9))
    for image, own, value in zip(images, codes, lookup_psnr(table, codes, patches(images, 3, 9)), strict=True):
        laid = np.concatenate([np.concatenate(list(table[row]), 1) for row in own.reshape(3, 3)], 0)
        mse = np.mean((image.astype(float) - laid) ** 2)
        assert value == pytest.approx(10 * math.log10(255**2 / mse))


def test_patches_are_row_major_also_where_the_grid_does_not_divide_and_for_two_codes_a_place():
    image = np.arange(7 * 7 * 3, dtype=np.uint8).reshape(1, 7, 7, 3)
    cut = patches(image, 3, 18)
    for position, (row, column) in enumerate((r, c) for r in (0, 2, 4) for c in (0, 2, 4)):
        expected = image[0, row : row + 2, column : column + 2]
        assert (cut[0, position] == expected).all() and (cut[0, position + 9] == expected).all()
    with pytest.raises(UserError, match="data.img_px = 7: expected at least 1 px for each of the 8 codes"):
        patches(image, 8, 64)


def test_gallery_uses_have_their_code_and_its_crops_their_patch_in_the_middle():
    rng = np.random.default_rng(0)
    codes, images = rng.integers(0, 5, (20, 9)), rng.integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    uses = choose_uses(codes, 2, 6, seed=0)
    assert len(uses) == 6 == len({tuple(use) for use in uses.tolist()})
    assert (codes[uses[:, 0], uses[:, 1]] == 2).all()
    assert (uses != choose_uses(codes, 2, 6, seed=1)).any() and (uses == choose_uses(codes, 2, 6, seed=0)).all()
    framed = crops(images[uses[:, 0]], uses[:, 1], grid=3, context=1)
    expected = patches(images, 3, 9)[uses[:, 0], uses[:, 1]]
    assert framed.shape == (6, 12, 12, 3) and (framed[:, 4:8, 4:8] == expected).all()
    assert (crops(images[uses[:, 0]], uses[:, 1], grid=3, context=0) == expected).all()


def test_the_most_used_codes_come_first_then_others_down_to_the_least():
    counts = np.array([5, 0, 9, 1, 7, 3, 2, 8])
    assert shown_codes(counts, Gallery(most_used=2, others=2, patches=1, context=0)).tolist() == [2, 7, 5, 3]
    assert shown_codes(counts, Gallery(most_used=20, others=5, patches=1, context=0)).tolist() == [2, 7, 4, 0, 5, 6, 3]
    assert shown_codes(counts, Gallery(most_used=2, others=5, patches=1, context=0)).tolist() == [2, 7, 4, 0, 5, 6, 3]


def test_bags_and_usage_count():
    codes = np.array([[0, 0, 2, 1], [3, 3, 3, 3]], np.uint16)
    assert bags(codes, 5).tolist() == [[0.5, 0.25, 0.25, 0, 0], [0, 0, 0, 1, 0]]
    assert usage(np.full(16, 3))["perplexity"] == pytest.approx(16) and usage(np.array([0, 9]))["perplexity"] == 1
    assert usage(np.arange(16))["entropy_nats"] <= math.log(16)


def test_the_majority_class_is_the_one_that_uses_a_code_most():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 6, (30, 4)), rng.choice([2, 5, 7], 30)
    found, share = majority_class(codes, labels, 7)
    for code in range(6):
        uses = np.array([(codes[labels == one] == code).sum() for one in (2, 5, 7)])
        assert found[code] == (2, 5, 7)[uses.argmax()] and share[code] == pytest.approx(uses.max() / uses.sum())
    assert (found[6], share[6]) == (-1, 0)


def test_classes_that_have_codes_of_their_own_are_read_from_them():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    codes = labels[:, None] * 2 + rng.integers(0, 2, (40, 9))
    known = Survey(np.arange(40), codes, rng.normal(size=(40, 3)).astype(np.float32), labels, rng.random((40, 9, 3)))
    params = CodeAnalysis.model_construct(inverse_regularization=10.0, bootstrap_draws=3, seed=0)
    found = class_metrics(known, known, rng.normal(size=(8, 8)).astype(np.float32), params)
    assert found["bag"] == found["vectors"] == 1 > found["features"]
    nobody = dataclasses.replace(known, labels=np.full(40, -1))
    assert class_metrics(nobody, nobody, np.ones((8, 2)), params) == {"skipped": "no classes"}


def test_the_classifier_is_fitted_to_its_end_whatever_the_scale_of_the_features():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(90, 5)) * [1, 2, 3, 1, 1], rng.integers(0, 3, 90)
    known, asked = features[:60], features[60:]
    exact = LogisticRegression(C=1 / known.var(0).mean(), tol=1e-8, max_iter=5000).fit(known, labels[:60])
    expected = exact.predict(asked) == labels[60:]
    for scale in (1.0, 1e-4):
        assert (class_hits(known * scale, labels[:60], asked * scale, labels[60:], 1.0) == expected).all()


def test_chosen_features_are_those_of_their_image_and_position():
    labels = np.arange(10) % 5
    features = np.random.default_rng(0).normal(size=(10, 9, 4)).astype(np.float32)
    subset = FeatureSubset(labels, 9, TSNE, seed=0)
    for start in (0, 4, 8):
        part = features[start : start + 4]
        subset.collect(Batch(start, part, part[..., 0].astype(int), part))
    assert (subset.features() == features[subset.images, subset.positions]).all() and len(subset.features()) == 20
    assert set(subset.labels.tolist()) == set(subset.classes.tolist()) and len(subset.classes) == 2


@pytest.fixture(scope="module")
def settings(toy):
    return load("code_analysis", CodeAnalysis, toy / "params.yaml"), load("machine", Machine, toy / "params.yaml")


def run(toy, report, settings) -> dict:
    analyze(Inputs(toy / "data/images", toy / "data/codebook/kmeans"), report, *settings)
    return json.loads((report / "metrics.json").read_text())


def test_the_stage_says_what_the_toys_codes_are_worth_twice_the_same(toy, tmp_path, settings):
    metrics = run(toy, tmp_path / "one", settings)
    assert {*metrics} == {"images", "usage", "class", "retrieval", "color", "lookup", "protocol"}
    assert metrics["protocol"][0]["val_images"] + metrics["protocol"][0]["train_images"] == toys.IMAGES
    assert metrics["lookup"]["psnr_db"] > metrics["lookup"]["one_patch_psnr_db"]
    assert metrics["color"]["features"] > metrics["color"]["vectors"]
    run(toy, tmp_path / "two", settings)
    assert toys.hashes(tmp_path / "one") == toys.hashes(tmp_path / "two")
    pictures = {"gallery.png", "tsne.png", "map/codes.json", "map/patches.png"}
    assert {*toys.hashes(tmp_path / "one")} == {"metrics.json", *pictures}


def test_codes_and_lookup_are_those_of_the_tokenizer_itself(toy):
    tokenizer, val = load_tokenizer(toy / "data/codebook/kmeans"), ImageSplit(toy / "data/images", "val")
    tokenizer.codebook.normalize = True
    index, shown = np.arange(3, 13), []
    seen = survey(val, index, tokenizer, 4, [shown.append])
    codes = tokenizer.encode(val.read(index)).astype(np.int64)
    assert (seen.codes == codes).all() and (seen.labels == val.labels[index]).all()
    table = np.random.default_rng(0).integers(0, 256, (8, *shown[0].patches.shape[2:]), dtype=np.uint8)
    lookup = Lookup(table, table[:1])
    for batch in shown:
        lookup.test(batch)
    expected = lookup_psnr(table, codes, patches(val.read(index), tokenizer.grid, tokenizer.num_patches))
    assert lookup.metrics(3, 0)["psnr_db"] == pytest.approx(expected.mean())
    assert [batch.start for batch in shown] == [0, 4, 8]
    assert np.linalg.norm(shown[0].features, axis=-1) == pytest.approx(np.ones((4, 16)), abs=1e-5), "in code space"


def test_too_great_a_perplexity_is_refused_by_the_schema():
    with pytest.raises(ValidationError, match="perplexity = 60.0: expected less than features = 60"):
        Tsne(features=60, codes=8, classes=2, perplexity=60.0, iterations=250)
