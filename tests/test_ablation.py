"""Codebook size x dimension, against scikit-learn and brute force. Run: pytest tests/test_ablation.py"""

import json

import numpy as np
import pytest
import toy as toys
from pydantic import ValidationError

from stages.core import UserError
from stages.core.params import Machine, load
from stages.data.reader import ImageSplit
from stages.features.reader import FeatureSplit
from stages.studies.ablation_cell import Inputs, check, errors, fit_index, fit_pca, measure, quantize
from stages.studies.params import Ablation, AblationCell
from stages.studies.patches import PatchTable, lookup_psnr, patches


@pytest.fixture
def features() -> np.ndarray:
    """float32 [20, 9, 6], far from the origin, with a different variance along each of some oblique axes."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return (5 + rng.normal(size=(20, 9, 6)) * [3, 2, 1, 0.5, 0.2, 0.1] @ turned).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_the_components_are_scikit_learns_and_what_they_leave_out_is_the_projection_error(features, dim):
    from sklearn.decomposition import PCA

    flat = features.reshape(-1, 6)
    pca, expected = fit_pca(flat, dim), PCA(dim).fit(flat)
    assert np.allclose(np.abs(pca.project(flat)), np.abs(expected.transform(flat)), atol=1e-3)
    lost = errors(features, pca, 0.0)["projection_error"]
    assert lost == pytest.approx(1 - expected.explained_variance_ratio_.sum(), abs=1e-5)


@pytest.mark.parametrize(("dim", "num_codes"), [(0, 7), (2, 7), (6, 20)])
def test_the_error_is_that_of_the_reconstructed_features(features, dim, num_codes):
    pca = fit_pca(features.reshape(-1, 6), dim)
    near = pca.project(features)
    index = fit_index(near.reshape(-1, near.shape[-1]), num_codes, 5, 0, on_gpu=False)
    codes, squared = quantize(index, near)
    vectors = index.reconstruct_n(0, num_codes)
    assert (codes == np.square(near[:, :, None] - vectors).sum(-1).argmin(-1)).all()
    again = vectors[codes] @ pca.axes.T + pca.mean
    total = np.square(features - features.mean((0, 1))).sum()
    found = errors(features, pca, squared)["quantization_error"]
    assert found == pytest.approx(np.square(features - again).sum() / total, rel=1e-4)


def test_a_code_for_every_vector_loses_nothing_and_one_code_loses_all(features):
    flat = features.reshape(-1, 6)
    pca = fit_pca(flat, 0)
    for num_codes, expected in ((len(flat), 0), (1, 1)):
        index = fit_index(pca.project(flat), num_codes, 3, 0, on_gpu=False)
        found = errors(features, pca, quantize(index, pca.project(features))[1])
        assert found["quantization_error"] == pytest.approx(expected, abs=1e-4) and found["projection_error"] < 1e-6


def test_only_the_chosen_features_are_read_in_order(toy):
    chosen = np.array([0, 9, 10, 23])  # shards of ten
    split = FeatureSplit(toy / "data/features", "train")
    keys, everything = split.keys(), list(split)
    assert split.keys(chosen) == [keys[i] for i in chosen]
    assert (split.read(chosen) == np.stack([everything[i] for i in chosen])).all()


def run(toy, report, num_codes: int, dim: int, **changes) -> dict:
    cell = load("ablation.cell", AblationCell, toy / "params.yaml").model_copy(update=changes)
    machine = load("machine", Machine, toy / "params.yaml")
    measure(Inputs(toy / "data/images", toy / "data/features", num_codes, dim), report, cell, machine)
    return json.loads((report / "metrics.json").read_text())


def test_more_codes_and_dimensions_lose_less_and_runs_repeat(toy, tmp_path):
    small, large = run(toy, tmp_path / "small", 2, 1), run(toy, tmp_path / "large", 16, 0)
    assert small["features"]["quantization_error"] > large["features"]["quantization_error"]
    assert small["lookup"]["psnr_db"] < large["lookup"]["psnr_db"]
    assert small["usage"]["live_codes"] <= 2 and (small["dim"], large["dim"]) == (1, 32)
    assert large["class"]["bag"] > 0.5 and small["protocol"] == large["protocol"]
    run(toy, tmp_path / "again", 16, 0)
    assert toys.hashes(tmp_path / "again") == toys.hashes(tmp_path / "large")


def test_the_lookup_is_that_of_the_tokenizers_own_patches(toy, tmp_path):
    metrics = run(toy, tmp_path, 1, 0, max_images=20)
    train, val = (ImageSplit(toy / "data/images", split) for split in ("train", "val"))
    keys = {
        split: FeatureSplit(toy / "data/features", split).keys(check_chosen(toy, split)) for split in ("train", "val")
    }
    seen = {
        name: split.read([split.keys.index(key) for key in keys[name]])
        for name, split in (("train", train), ("val", val))
    }
    table, one = PatchTable(1, 4), np.zeros((20, 16), np.int64)
    table.add(one, patches(seen["train"], 4, 16))
    expected = lookup_psnr(table.pictures(), one[: len(seen["val"])], patches(seen["val"], 4, 16)).mean()
    assert metrics["lookup"]["psnr_db"] == pytest.approx(expected, rel=1e-5)


def check_chosen(toy, split: str) -> np.ndarray:
    cell = load("ablation.cell", AblationCell, toy / "params.yaml").model_copy(update={"max_images": 20})
    return check(Inputs(toy / "data/images", toy / "data/features", 1, 0), cell)[split]


def test_impossible_cells_are_named(toy, tmp_path):
    with pytest.raises(UserError, match=r"ablation.num_codes = 41: expected from 1 to the 40 vectors to cluster"):
        run(toy, tmp_path, 41, 0, max_vectors=40)
    with pytest.raises(UserError, match=r"ablation.dims = 33: expected from 0 to the 32 dimensions of a feature"):
        run(toy, tmp_path, 4, 33)


@pytest.mark.parametrize("changes", [{"num_codes": []}, {"num_codes": [8, 8]}, {"num_codes": [0]}, {"dims": [-1, 2]},
                                     {"dims": [8.0]}])  # fmt: skip
def test_lists_that_make_no_grid_are_refused(toy, changes):
    given = load("ablation", Ablation, toy / "params.yaml").model_dump()
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Ablation.model_validate({**given, **changes})
