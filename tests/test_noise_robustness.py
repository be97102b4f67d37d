"""Codes under noise on toy images. Run: pytest tests/test_noise_robustness.py"""

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import photos
import pytest
import torch
from PIL import Image
from toy import write_params
from toy_pipeline import MACHINE, pixels_of, write_image_artifact

from stages.codebook.quantizers import Codebook, Fsq
from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError, artifact
from stages.core.params import load
from stages.data.masks import Masks
from stages.data.reader import ImageSplit
from stages.studies.code_changes import Batch, Inputs, add_noise, compare, cosine, measure, positions_counted, tokenize
from stages.studies.noise import foreground_by_mask, foreground_by_variance, unit_noise
from stages.studies.params import NoiseRobustness

SNRS = [60.0, 30.0, 20.0, 10.0, 5.0, 0.01]
PARAMS = NoiseRobustness(snrs_db=SNRS, seeds=[0, 1], max_images=60, foreground_variance=0.01, seed=0)


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


def run(toy, report, images=None, batch_size=100, **changes) -> dict:
    machine = MACHINE.model_copy(update={"infer_batch_size": batch_size})
    measure(Inputs(images or toy.images, toy.codebook), report, PARAMS.model_copy(update=changes), machine)
    return json.loads((report / "metrics.json").read_text())


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder of a report and its metrics, which tests only read."""
    report = tmp_path_factory.mktemp("report")
    return report, run(toy, report)


def levels(metrics: dict, metric: str) -> list[float]:
    return [metrics[f"snr_{snr:g}_db"][metric] for snr in SNRS]


def test_without_noise_nothing_changes(toy, monkeypatch):
    monkeypatch.setattr("stages.studies.code_changes.noise_sigma", lambda power, snr_db: 0 * power)
    tokenizer, pixels = load_tokenizer(toy.codebook), pixels_of(toy, 12)
    batch = Batch(list(range(12)), pixels, torch.ones(12, 16, dtype=torch.bool))
    with torch.inference_mode():
        means = add_noise(tokenizer, batch, [10.0], [0])[:, 0, 0].sum(0) / positions_counted(batch).sum(0)
    assert means[:4].tolist() == [0, 0, 1, 1] and means[4] == torch.inf


def test_metrics_equal_a_count_image_by_image(toy):
    tokenizer, pixels = load_tokenizer(toy.codebook), pixels_of(toy, 12)
    shown = foreground_by_variance(pixels, tokenizer.grid, 0.01)
    changed, shown_changed, codes, features = [], [], [], []
    with torch.inference_mode():
        means = add_noise(tokenizer, Batch(list(range(12)), pixels, shown), [10.0], [5])[:, 0, 0].sum(0)
        means /= positions_counted(Batch(list(range(12)), pixels, shown)).sum(0)
        for number, image in enumerate(pixels):
            noisy = image + unit_noise([number], 16, seed=5)[0] * (image.var((1, 2), correction=0).mean() / 10).sqrt()
            before, after = (tokenizer.encode_pixels(one[None])[0] for one in (image, noisy))
            for place in range(16):
                changed.append(int(before[place] != after[place]))
                shown_changed += [changed[-1]] if shown[number, place] else []
                codes.append(angle(*(tokenizer.codebook.vectors[code[place]].numpy() for code in (before, after))))
                features.append(angle(*(tokenizer.features(one[None])[0, place].numpy() for one in (image, noisy))))
    expected = [np.mean(values) for values in (changed, shown_changed, codes, features)]
    assert 0 < expected[0] < 1 and expected[0] != expected[1]
    np.testing.assert_allclose(means[:4], expected, atol=1e-5)


def angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def test_change_grows_and_similarity_falls_with_the_noise(whole):
    _, metrics = whole
    for metric in ("change", "foreground_change"):
        values = levels(metrics, metric)
        assert values == sorted(values) and 0 <= values[0] <= 0.02 and 0.3 < values[-1] <= 1, metric
    for metric in ("code_cosine", "feature_cosine"):
        values = levels(metrics, metric)
        assert values == sorted(values, reverse=True) and values[0] > 0.999 > values[-1], metric
    assert levels(metrics, "measured_snr_db") == pytest.approx(SNRS, abs=0.1)


def test_the_protocol_says_how(whole):
    _, metrics = whole
    noise, tokenizer = metrics["protocol"]
    assert (noise["of"], noise["images"], noise["positions"], noise["noise_seeds"]) == (
        "noise_robustness",
        60,
        16,
        [0, 1],
    )
    assert "0.01" in noise["foreground"] and "clipped" in noise["noise"] and "variance" in noise["signal_power"]
    assert (tokenizer["of"], tokenizer["num_codes"]) == ("tokenizer", 64)


def test_two_runs_give_the_same_bytes_and_other_batch_sizes_the_same_metrics(toy, whole, tmp_path):
    report, metrics = whole
    run(toy, tmp_path / "again")
    for name in ("metrics.json", "noise_robustness.tsv"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes()
    other = run(toy, tmp_path / "small", batch_size=7)
    for snr in SNRS:  # a code may flip where two are equally near
        assert other[f"snr_{snr:g}_db"] == pytest.approx(metrics[f"snr_{snr:g}_db"], abs=2e-3)


def test_another_tokenizer_sees_the_same_noise(toy, whole, tmp_path, monkeypatch):
    _, metrics = whole
    whole_load = load_tokenizer

    def few_codes(folder, device):
        tokenizer = whole_load(folder, device)
        tokenizer.codebook = Codebook(tokenizer.codebook.vectors[:4], normalize=False)
        return tokenizer

    monkeypatch.setattr("stages.studies.code_changes.load_tokenizer", few_codes)
    coarse = run(toy, tmp_path)
    for metric in ("measured_snr_db", "feature_cosine"):
        assert levels(coarse, metric) == levels(metrics, metric)
    assert np.mean(levels(coarse, "change")) < np.mean(levels(metrics, "change")), "few codes change less"
    assert metrics["protocol"][0] == coarse["protocol"][0], "so that the report compares them"


def test_foreground_by_variance_equals_numpys_patch_by_patch(toy):
    pixels = pixels_of(toy, 10)
    tiles = pixels.double().numpy().reshape(10, 3, 4, 4, 4, 4)
    expected = tiles.var((3, 5)).mean(1).reshape(10, 16)
    for threshold in (0.003, 0.01, 0.1):
        assert (foreground_by_variance(pixels, 4, threshold).numpy() == (expected > threshold)).all()
    assert not foreground_by_variance(torch.full((2, 3, 16, 16), 0.7), 4, 0.0001).any()
    assert foreground_by_variance(pixels, 5, 0.01).shape == (10, 25), "a grid that does not divide the image"


def test_foreground_by_mask_is_every_patch_that_it_touches():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 3, 4] = masks[1, 8:, :] = True
    assert foreground_by_mask(masks, 4).nonzero().tolist() == [[0, 1], *([1, place] for place in range(8, 16))]


def test_images_with_masks_are_measured_on_their_masks(toy, tmp_path):
    prepare_masked(tmp_path / "images")
    val, masks = ImageSplit(tmp_path / "images", "val"), Masks(tmp_path / "images", "val")
    covered = masks.read(val.keys)
    assert covered.dtype == bool and covered.shape == (len(val), 16, 16) and not covered[:, 4:].any()
    metrics = run(toy, tmp_path / "report", tmp_path / "images")
    assert "mask" in metrics["protocol"][0]["foreground"]
    assert metrics["foreground_share"] == pytest.approx(covered[:, 0].sum(1).mean() / 4 / 16, rel=1e-5)


def test_where_one_image_used_has_no_mask_variance_decides_for_all(toy, tmp_path):
    prepare_masked(tmp_path / "all")
    keys = ImageSplit(tmp_path / "all", "val").keys
    prepare_masked(tmp_path / "images", without=int(keys[0]))
    assert [key for key in keys if key not in Masks(tmp_path / "images", "val")] == keys[:1]
    metrics = run(toy, tmp_path / "report", tmp_path / "images", snrs_db=[10.0])
    assert "variance" in metrics["protocol"][0]["foreground"] and metrics["foreground_share"] == 1, "all of it is noise"


def prepare_masked(out, without: int = -1) -> None:
    """Twelve images of noise, each with a mask of one or two patches, except number `without`."""
    from stages.data.writer import write_images

    rng, source = np.random.default_rng(0), out.with_name(f"{out.name}-source")
    source.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(source / f"{number:02d}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[:4, : 4 * (1 + number % 2)] = number + 1
        if number != without:
            Image.fromarray(mask).convert("RGBA" if number == 5 else "L").save(source / f"{number:02d}.mask.png")
    with contextlib.chdir(out.parent):
        write_images(out, photos.params(source, shard_images=3), MACHINE)


def test_flat_images_have_no_signal_and_are_left_out(toy, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    images[::2] = rng.integers(0, 256, (15, 1, 1, 3), dtype=np.uint8)
    write_image_artifact(tmp_path / "some", images, np.full(30, -1), [])
    entry = run(toy, tmp_path / "report", tmp_path / "some")["protocol"][0]
    val = ImageSplit(tmp_path / "some", "val").read(range(entry["images"] + entry["flat_images"]))
    assert 0 < entry["flat_images"] == sum(len(np.unique(image.reshape(-1, 3), axis=0)) == 1 for image in val)
    write_image_artifact(tmp_path / "flat", images[::2], np.full(15, -1), [])
    metrics = run(toy, tmp_path / "none", tmp_path / "flat")
    assert list(metrics) == ["images", "skipped"] and "are not of one flat color: 2 are" in metrics["skipped"]
    assert (tmp_path / "none/noise_robustness.tsv").read_text() == "snr_db\tchange\n", "the stage's plot, empty"


def test_a_foreground_of_nothing_is_no_metric(toy, tmp_path):
    metrics = run(toy, tmp_path, foreground_variance=5.0, snrs_db=[10.0])
    assert metrics["foreground_share"] == 0 and "foreground_change" not in metrics["snr_10_db"]


def test_codes_of_two_codebooks_share_the_foreground_of_their_positions(toy, tmp_path):
    config = artifact.read_config(toy.codebook, "codebook")
    config |= {"blocks": [0, 1], "layers": "separate", "num_patches": 2 * config["num_patches"], "codebooks": 2}
    with artifact.new_artifact(tmp_path / "two", "codebook", config) as folder:
        artifact.copy(toy.encoder, folder / "encoder")
        shutil.copy(toy.codebook / "codes.safetensors", folder)
    two = SimpleNamespace(images=toy.images, codebook=tmp_path / "two")
    alone, metrics = run(toy, tmp_path / "one"), run(two, tmp_path / "report")
    assert metrics["protocol"][0]["positions"] == 32 and metrics["foreground_share"] == alone["foreground_share"]
    assert metrics["snr_0.01_db"]["foreground_change"] > metrics["snr_60_db"]["foreground_change"]


def test_features_are_what_is_quantized(toy):
    tokenizer, pixels = load_tokenizer(toy.codebook), pixels_of(toy, 5)
    features = tokenizer.features(pixels)
    assert features.dtype == torch.float32 and features.shape == (5, 16, tokenizer.dim)
    assert torch.equal(tokenizer.codebook.assign(features), tokenizer.encode_pixels(pixels))


def test_unbounded_features_are_compared_in_code_space():
    codebook = Fsq([8, 8])
    tokenizer = SimpleNamespace(codebook=codebook, vectors=lambda k: codebook.vectors[k], features=lambda given: given)
    both = torch.tensor([[[5.0, 5.0]]]), torch.tensor([[[50.0, 5.0]]])
    clean, noisy = (tokenize(tokenizer, features) for features in both)
    assert compare(clean, noisy, torch.ones(1, 1, dtype=torch.bool))[3] > 0.9999 > cosine(*both)


@pytest.mark.parametrize(("changes", "said"), [
    ({"snrs_db": []}, "noise_robustness.snrs_db"),
    ({"snrs_db": [10, 10.0]}, "expected different"),
    ({"snrs_db": [101]}, "noise_robustness.snrs_db.0 = 101"),
    ({"seeds": [0]}, "noise_robustness.seeds"),
    ({"max_images": 0}, "noise_robustness.max_images = 0"),
    ({"foreground_variance": -1.0}, "noise_robustness.foreground_variance = -1.0"),
])  # fmt: skip
def test_impossible_settings_are_named(changes, said, tmp_path):
    with pytest.raises(UserError) as caught:
        load("noise_robustness", NoiseRobustness, write_params(tmp_path, {"noise_robustness": changes}))
    assert said in str(caught.value)
