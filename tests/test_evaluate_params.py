"""What the evaluate stage refuses and announces before any work. Run: pytest tests/test_evaluate_params.py"""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scoring import PARAMS, REFERENCE, write_reference
from toy_pipeline import MACHINE, write_samples

from stages.core.errors import UserError
from stages.evaluate.score import check
from stages.reference.build import Params
from stages.reference.reader import load_reference

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


@pytest.mark.parametrize(("setting", "params", "reference", "allowed"), [
    ("evaluate.kid_subset_size = 61", {"kid_subset_size": 61}, {}, "60: there are 60 samples of ar a seed"),
    ("evaluate.kid_subset_size = 40", {}, {"max_images": 39}, "39: there are 39 train images compared with"),
    ("reference.prc_neighbours = 60", {}, {"prc_neighbours": 60}, "59: there are 60 samples of ar a seed"),
])  # fmt: skip
def test_settings_that_the_counts_forbid(toy, tmp_path, setting, params, reference, allowed):
    write_reference(toy.images, toy.encoder, toy.judge, tmp_path / "reference", MACHINE, **reference)
    with pytest.raises(UserError, match=f"{setting}: expected at most {allowed}"):
        check(tmp_path / "reference", toy.codebook, toy.samples, ["ar"], PARAMS.model_copy(update=params))


def test_balls_around_more_images_than_there_are_and_networks_of_another_reference_are_refused(toy, tmp_path):
    write = partial(write_reference, toy.images, toy.encoder, toy.judge, tmp_path / "reference", MACHINE)
    with pytest.raises(UserError, match=r"reference.prc_neighbours = 200: expected at most \d+: there are \d+ train"):
        write(prc_neighbours=200)
    write(max_images=50)
    with pytest.raises(UserError, match="reference: made with other networks than these.*dvc repro reference"):
        load_reference(tmp_path / "reference", {})


def test_fewer_samples_than_the_inception_score_splits_are_refused(toy):
    write_samples(toy, "nine", np.arange(60) % 10)
    folder = toy.samples / "nine"
    few = {"codes.npy": np.load(folder / "codes.npy")[:, :9], "labels.npy": np.load(folder / "labels.npy")[:9]}
    rewrite(folder, few)
    with pytest.raises(UserError, match="samples.draws.per_class: .*nine has 9 samples a seed: expected at least 10"):
        check(toy.reference, toy.codebook, toy.samples, ["nine"], PARAMS)


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

    write_reference(toy.images, toy.encoder, toy.judge, tmp_path / "reference", MACHINE, max_images=70)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "peak memory about 1.0 GB" in plan
    assert peak_bytes(50_000, 768, 16) - peak_bytes(40_000, 768, 16) == 10_000 * (4 * (768 + 768) + 8_000)
    assert peak_bytes(1_000, 768, 16) < 1.1e9 < 1.7e9 < peak_bytes(50_000, 768, 16)
    samples = check(toy.reference, toy.codebook, toy.samples, ["ar"], PARAMS)
    announce(toy.images, tmp_path / "reference", samples, tmp_path)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "120 samples" in plan and "peak memory about 1.0 GB" in plan


def test_a_missing_generator_and_foreign_codes_are_named(toy, tmp_path):
    with pytest.raises(UserError, match="masked: no artefact here.*dvc repro"):
        check(toy.reference, toy.codebook, toy.samples, ["ar", "masked"], PARAMS)
    config = json.loads((toy.codebook / "config.json").read_text())
    shutil.copytree(toy.codebook, tmp_path / "codebook")
    (tmp_path / "codebook" / "config.json").write_text(json.dumps({**config, "num_patches": 64}))
    with pytest.raises(UserError, match="16 codes an image, .* has 64"):
        check(toy.reference, tmp_path / "codebook", toy.samples, ["ar"], PARAMS)


def test_weights_must_be_a_safetensors_file(tmp_path):
    from stages.core.params import load

    (tmp_path / "weights.pth").write_bytes(b"")
    for path in (tmp_path / "weights.pth", tmp_path / "absent.safetensors"):
        section = {**REFERENCE.model_dump(), "inception_weights": str(path)}
        (tmp_path / "params.yaml").write_text(json.dumps({"reference": section}))
        with pytest.raises(UserError, match="reference.inception_weights.*existing .safetensors file"):
            load("reference", Params, tmp_path / "params.yaml")


@pytest.mark.parametrize("module", ["stages.evaluate.score", "stages.probe.linear", "stages.report.build"])
def test_help_imports_nothing_heavy(module):
    heavy = ("torch", "numpy", "sklearn", "matplotlib", "jinja2")
    code = f"import sys; import {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
