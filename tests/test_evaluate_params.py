"""What reference, reconstruction and generation refuse and announce before any work."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scoring import GENERATION, REFERENCE, inputs_of, write_decoder, write_reference
from toy_pipeline import MACHINE, write_samples

from stages.core import artifact
from stages.core.errors import UserError
from stages.core.params import load
from stages.evaluate.params import ReferenceParams
from stages.evaluate.reference import load_reference, peak_bytes
from stages.evaluate.score_generation import check, print_estimate


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


@pytest.mark.parametrize(("setting", "params", "reference", "allowed"), [
    ("generation.kid_subset_size = 61", {"kid_subset_size": 61}, {}, "60: there are 60 samples of ar per seed"),
    ("generation.kid_subset_size = 40", {}, {"max_images": 39}, "39: there are 39 train images compared with"),
    ("reference.prc_neighbors = 60", {}, {"prc_neighbors": 60}, "59: there are 60 samples of ar per seed"),
])  # fmt: skip
def test_settings_that_the_counts_forbid(toy, tmp_path, setting, params, reference, allowed):
    inputs = inputs_of(toy, reference=tmp_path / "reference")
    write_reference(inputs.images, inputs.encoder, inputs.classifier, inputs.reference, MACHINE, **reference)
    with pytest.raises(UserError, match=f"{setting}: expected at most {allowed}"):
        check(inputs, toy.samples, ["ar"], GENERATION.model_copy(update=params))


def test_more_neighbors_than_there_are_images_and_networks_of_another_reference_are_refused(toy, tmp_path):
    write = partial(write_reference, toy.images, toy.encoder, toy.classifier, tmp_path / "reference", MACHINE)
    with pytest.raises(UserError, match=r"reference.prc_neighbors = 200: expected at most \d+: there are \d+ train"):
        write(prc_neighbors=200)
    write(max_images=50)
    with pytest.raises(UserError, match="reference: made with other networks than these.*dvc repro reference"):
        load_reference(tmp_path / "reference", {})


def test_fewer_samples_than_the_inception_score_splits_are_refused(toy):
    write_samples(toy, "nine", np.arange(60) % 10)
    folder = toy.samples / "nine"
    few = {"codes.npy": np.load(folder / "codes.npy")[:, :9], "labels.npy": np.load(folder / "labels.npy")[:9]}
    rewrite(folder, few)
    with pytest.raises(UserError, match="samples.draws.per_class: .*nine has 9 samples per seed: expected at least 10"):
        check(inputs_of(toy), toy.samples, ["nine"], GENERATION)


def rewrite(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """The artifact again, with other arrays."""
    config = json.loads((folder / "config.json").read_text())
    facts = {key: value for key, value in config.items() if key not in ("artifact", "files")}
    shutil.rmtree(folder)
    with artifact.new_artifact(folder, "samples", facts) as work:
        for name, array in arrays.items():
            np.save(work / name, array)


def test_the_memory_estimate_follows_the_counts(toy, tmp_path, capsys):
    reference = tmp_path / "reference"
    write_reference(toy.images, toy.encoder, toy.classifier, reference, MACHINE, max_images=70)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "peak memory about 1.0 GB" in plan
    assert peak_bytes(50_000, 768, 16) - peak_bytes(40_000, 768, 16) == 10_000 * (4 * (768 + 768) + 8_000)
    assert peak_bytes(1_000, 768, 16) < 1.1e9 < 1.7e9 < peak_bytes(50_000, 768, 16)
    print_estimate(reference, check(inputs_of(toy), toy.samples, ["ar"], GENERATION), tmp_path)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "120 samples" in plan and "peak memory about 1.0 GB" in plan


def test_a_missing_generator_and_foreign_codes_are_named(toy, tmp_path):
    with pytest.raises(UserError, match="masked: no artifact here.*dvc repro"):
        check(inputs_of(toy), toy.samples, ["ar", "masked"], GENERATION)
    write_decoder(tmp_path / "decoder", num_codes=64, grid=8)
    with pytest.raises(UserError, match="16 codes per image, .* takes 64"):
        check(inputs_of(toy, decoder=tmp_path / "decoder"), toy.samples, ["ar"], GENERATION)


def test_weights_must_be_a_safetensors_file(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    for path in (tmp_path / "weights.pth", tmp_path / "absent.safetensors"):
        section = {**REFERENCE.model_dump(), "inception_weights": str(path)}
        (tmp_path / "params.yaml").write_text(json.dumps({"reference": section}))
        with pytest.raises(UserError, match="reference.inception_weights.*existing .safetensors file"):
            load("reference", ReferenceParams, tmp_path / "params.yaml")
