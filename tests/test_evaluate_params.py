"""What the evaluate stage refuses and announces before any work. Run: pytest tests/test_evaluate_params.py"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scoring import PARAMS
from toy_pipeline import write_samples

from stages.core.errors import UserError
from stages.evaluate.score import Params, check

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


@pytest.mark.parametrize(("key", "value", "allowed"), [
    ("kid_subset_size", 61, "expected at most 60: there are 60 samples of ar a seed"),
    ("prc_neighbours", 60, "expected at most 59"),
])  # fmt: skip
def test_settings_that_the_counts_forbid(toy, key, value, allowed):
    with pytest.raises(UserError, match=f"evaluate.{key} = {value}: {allowed}"):
        check(toy.images, toy.codebook, toy.samples, ["ar"], PARAMS.model_copy(update={key: value}))


def test_subsets_are_no_larger_than_the_train_images_compared_with(toy):
    few = PARAMS.model_copy(update={"max_reference_images": 39})
    with pytest.raises(UserError, match="kid_subset_size = 40: .* at most 39: there are 39 train images compared"):
        check(toy.images, toy.codebook, toy.samples, ["ar"], few)


def test_fewer_samples_than_the_inception_score_splits_are_refused(toy):
    write_samples(toy, "nine", np.arange(60) % 10)
    folder = toy.samples / "nine"
    few = {"codes.npy": np.load(folder / "codes.npy")[:, :9], "labels.npy": np.load(folder / "labels.npy")[:9]}
    rewrite(folder, few)
    with pytest.raises(UserError, match="samples.draws.per_class: .*nine has 9 samples a seed: expected at least 10"):
        check(toy.images, toy.codebook, toy.samples, ["nine"], PARAMS)


def rewrite(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """The artefact again, with other arrays."""
    from stages.core import artefact

    config = json.loads((folder / "config.json").read_text())
    facts = {key: value for key, value in config.items() if key not in ("kind", "files")}
    shutil.rmtree(folder)
    with artefact.new_artefact(folder, "samples", facts) as work:
        for name, array in arrays.items():
            np.save(work / name, array)


def test_the_plans_memory_follows_the_counts(toy, tmp_path, capsys):
    from stages.evaluate.score import announce, peak_bytes

    assert peak_bytes(50_000, 768, 16) - peak_bytes(40_000, 768, 16) == 10_000 * (4 * (768 + 768) + 8_000)
    assert peak_bytes(1_000, 768, 16) < 1.1e9 < 1.7e9 < peak_bytes(50_000, 768, 16)
    samples = check(toy.images, toy.codebook, toy.samples, ["ar"], PARAMS)
    announce(
        toy.images, toy.encoder, toy.judge, samples, tmp_path, PARAMS.model_copy(update={"max_reference_images": 70})
    )
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "120 samples" in plan and "peak memory about 1.0 GB" in plan


def test_a_missing_generator_and_foreign_codes_are_named(toy, tmp_path):
    with pytest.raises(UserError, match="masked: no artefact here.*dvc repro"):
        check(toy.images, toy.codebook, toy.samples, ["ar", "masked"], PARAMS)
    config = json.loads((toy.codebook / "config.json").read_text())
    shutil.copytree(toy.codebook, tmp_path / "codebook")
    (tmp_path / "codebook" / "config.json").write_text(json.dumps({**config, "num_patches": 64}))
    with pytest.raises(UserError, match="16 codes an image, .* has 64"):
        check(toy.images, tmp_path / "codebook", toy.samples, ["ar"], PARAMS)


def test_weights_must_be_a_safetensors_file(tmp_path):
    from stages.core.params import load

    (tmp_path / "weights.pth").write_bytes(b"")
    for path in (tmp_path / "weights.pth", tmp_path / "absent.safetensors"):
        section = {**PARAMS.model_dump(), "inception_weights": str(path)}
        (tmp_path / "params.yaml").write_text(json.dumps({"evaluate": section}))
        with pytest.raises(UserError, match="evaluate.inception_weights.*existing .safetensors file"):
            load("evaluate", Params, tmp_path / "params.yaml")


@pytest.mark.parametrize("module", ["stages.evaluate.score", "stages.probe.linear", "stages.report.build"])
def test_help_imports_nothing_heavy(module):
    heavy = ("torch", "numpy", "sklearn", "matplotlib", "jinja2")
    code = f"import sys; import {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
