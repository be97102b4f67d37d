"""Metrics of decoders at several numbers of steps, on a toy pipeline with decoders of known quality.

Run: pytest tests/test_decoding_steps.py
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scoring import write_classifier
from toy_pipeline import MACHINE, NUM_CODES, PatchDecoder, write_image_artifact

from stages.codebook.tokenizer import Tokenizer
from stages.core import UserError
from stages.data.reader import ImageSplit
from stages.decoder.decoder import Decoder, normal
from stages.decoder.onestep import OneStep, OneStepDecoder
from stages.studies.decoding_variants import Inputs, check, code_facts, gflop_per_image, measure
from stages.studies.params import DecodingSteps

PARAMS = DecodingSteps(
    steps=[1, 4],
    seeds=[0, 1],
    max_images=1000,
    perceptual_blocks=[0, 1],
    bootstrap_draws=5,
    images_shown=3,
    seed=0,
    decoding_precision="fp32",
)
CONFIG = {"name": "fake", "kind": "fake", "tokenizer": "kmeans", "num_codes": NUM_CODES, "codebooks": 1, "grid": 4}


class Once(Decoder):
    """The training patch of every code."""

    stochastic = False

    def __init__(self, patches: np.ndarray):
        super().__init__(torch.nn.Linear(3, 2), {**CONFIG, "sampling": {"steps": 2}}, "cpu")
        self.inner = PatchDecoder(patches)

    def decode_batch(self, codes_BN, seeds_B):
        images = self.inner.decode(codes_BN.numpy(), torch.Generator())
        return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


class Noisy(Once):
    """The same under noise that more steps make less; takes steps, as diffusion does."""

    stochastic = True
    steps = property(lambda self: self.config["sampling"]["steps"])

    def decode_batch(self, codes_BN, seeds_B):
        return super().decode_batch(codes_BN, seeds_B) + normal(seeds_B, (3, 16, 16), "cpu") / self.steps


class Memory(Decoder):
    """Returns every image that the tokenizer was given."""

    stochastic = False

    def __init__(self):
        super().__init__(torch.nn.Identity(), CONFIG, "cpu")

    def decode(self, codes, generator=None, batch_size=256):
        return self.images

    def decode_batch(self, codes_BN, seeds_B):
        """Part of the interface; `decode` above does without it."""
        raise AssertionError("decode does not call it")


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


def inputs_of(toy, **paths: Path) -> Inputs:
    found = {name: getattr(toy, name) for name in ("images", "encoder", "classifier", "codebook")}
    return Inputs(**{**found, "decoder": toy.root / "decoder", **paths})


def run(toy, report: Path, decoder: Decoder, params: DecodingSteps = PARAMS, machine=MACHINE, **paths: Path) -> dict:
    """metrics.json of one run with a decoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.studies.decoding_variants.load_decoder", lambda folder, device, precision: decoder)
        measure(inputs_of(toy, **paths), report, params, machine)
    return json.loads((report / "metrics.json").read_text())


@pytest.fixture(scope="module")
def measured(toy, tmp_path_factory):
    report = tmp_path_factory.mktemp("decoding_steps")
    return report, run(toy, report, Noisy(toy.patches))


METRICS = ("rfid[classifier]", "rfid[embedded]", "psnr_db", "ssim", "perceptual", "class_accuracy")


def test_more_steps_are_seen_in_every_score_each_with_both_spreads(measured):
    _, metrics = measured
    assert [name for name in metrics if name.startswith("steps_")] == ["steps_1", "steps_2", "steps_4"], "its own, too"
    for name in METRICS:
        first, last = (metrics[f"steps_{steps}"] for steps in (1, 4))
        better = last[name] > first[name] if name in ("psnr_db", "ssim", "class_accuracy") else last[name] < first[name]
        assert better and first[f"{name}_std"] > 0 and first[f"{name}_seed_std"] > 0, name
    assert metrics["decoder"] == {"name": "fake", "kind": "fake", "tokenizer": "kmeans", "parameters": 8, "steps": 2}
    assert metrics["codes"] == {"kind": "kmeans", "tokens": 16, "num_codes": 64, "bits_per_image": 96.0}


def test_the_picture_has_a_column_for_the_original_and_for_each_number_of_steps(measured, toy):
    report, metrics = measured
    [_, place] = metrics["protocol"]
    assert place["columns"] == ["original", "steps_1", "steps_2", "steps_4"]
    picture = np.asarray(Image.open(report / "steps.png"))
    assert picture.shape == (3 * 17 * 4 - 4, 4 * place["pitch_px"] - 4, 3)
    images = ImageSplit(toy.images, "val").read(range(103))
    firsts = [picture[row * 68 : row * 68 + 64 : 4, :64:4] for row in range(3)]
    assert all((images == first).all((1, 2, 3)).sum() == 1 for first in firsts), "the original, unchanged"


def test_the_protocol_is_that_of_any_other_decoder_of_the_same_images(measured, toy, tmp_path):
    _, metrics = measured
    other = run(toy, tmp_path, Once(toy.patches))
    assert metrics["protocol"][0] == other["protocol"][0]
    assert metrics["protocol"][0]["count"] == 103 and set(metrics["protocol"][0]["extractors"]) == {
        "classifier",
        "embedded",
    }


def test_a_decoder_without_steps_or_chance_is_measured_once(toy, tmp_path):
    metrics = run(toy, tmp_path, Once(toy.patches))
    assert set(metrics) == {"images", "decoder", "codes", "once", "protocol"} and "steps" not in metrics["decoder"]
    assert not [name for name in metrics["once"] if name.endswith("_seed_std")]


def test_the_cost_is_two_for_each_weight_and_place_of_a_convolution():
    network = OneStep(torch.randn(NUM_CODES, 6), 1, [16, 8], 1)
    coarse, fine = 6 * 16 + 2 * 9 * 16**2, 9 * (16 * 8 + 2 * 8**2 + 8 * 3)  # at 4 x 4 and at 8 x 8
    decoder = OneStepDecoder(network, CONFIG, "cpu")
    cost = gflop_per_image(decoder, np.zeros((5, 16), np.int64))
    assert cost * 1e9 == 2 * (coarse * 4**2 + fine * 8**2)


def test_perfect_reconstructions_have_no_distance(toy, tmp_path, monkeypatch):
    perfect, encode = Memory(), Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, images, size: (setattr(perfect, "images", images), encode(self, images))[1]
    )
    found = run(toy, tmp_path, perfect)["once"]
    assert found["ssim"] == pytest.approx(1) and found["psnr_db"] > 58
    assert abs(found["perceptual"]) < 1e-5 and abs(found["rfid[classifier]"]) < 1e-3 > abs(found["rfid[embedded]"])


def test_it_does_not_depend_on_batches_and_two_runs_give_the_same_bytes(measured, toy, tmp_path):
    report, _ = measured
    run(toy, tmp_path, Noisy(toy.patches), machine=MACHINE.model_copy(update={"infer_batch_size": 33}))
    for name in ("metrics.json", "steps.png"):
        assert (report / name).read_bytes() == (tmp_path / name).read_bytes()


def test_without_classes_there_is_no_classifier(toy, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    write_image_artifact(tmp_path / "images", images, np.full(60, -1), [])
    write_classifier(tmp_path / "images", tmp_path / "classifier", MACHINE)
    paths = {"images": tmp_path / "images", "classifier": tmp_path / "classifier"}
    params = PARAMS.model_copy(update={"max_images": 10})
    metrics = run(toy, tmp_path / "report", Once(toy.patches), params, **paths)
    assert metrics["once"]["class_accuracy_skipped"] == "no classes" and "rfid[classifier]" not in metrics["once"]
    assert metrics["protocol"][0]["count"] == 10 and "rfid[embedded]" in metrics["once"]


def test_a_code_of_several_codebooks_is_one_of_its_own():
    two = SimpleNamespace(num_patches=32, grid=4, num_codes=512, config={"kind": "kmeans"})
    assert code_facts(two)["bits_per_image"] == 32 * 8


def test_impossible_settings_are_named(toy):
    with pytest.raises(
        UserError, match=r"decoding_steps.perceptual_blocks = \[2\]: expected block numbers from 0 to 1"
    ):
        check(inputs_of(toy), PARAMS.model_copy(update={"perceptual_blocks": [0, 2]}))
    with pytest.raises(ValueError, match=r"\[1, 1\]: expected different numbers"):
        DecodingSteps(**{**PARAMS.model_dump(), "steps": [1, 1]})
