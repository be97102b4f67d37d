"""What reference, reconstruction and generation refuse, announce and leave out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scoring import GENERATION, REFERENCE, inputs_of, write_decoder, write_reference
from toy_pipeline import MACHINE, PatchDecoder, write_samples

from stages.core import UserError, artifact
from stages.core.params import load
from stages.evaluate.metrics import too_few
from stages.evaluate.params import ReferenceParams
from stages.evaluate.reference import load_reference, peak_bytes
from stages.evaluate.samples import open_samples
from stages.evaluate.score_generation import print_estimate, score_generators


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


KID, SPLITS = "images needed (generation.kid_subset_size)", "images needed (the splits)"
PRC = "images needed (reference.prc_neighbors + 1)"


@pytest.mark.parametrize(("images", "reference", "kid_subset_size", "neighbors", "said"), [
    (60, 200, 60, 59, {}),
    (60, 200, 61, 60, {"gkid": f"61 {KID}, 60 there", "precision_recall": f"61 {PRC}, 60 there"}),
    (60, 39, 40, 39, {"gkid": f"40 {KID}, 39 there", "precision_recall": f"40 {PRC}, 39 there"}),
    (9, 200, 9, 3, {"is": f"10 {SPLITS}, 9 there"}),
    (1, 2, 2, 1, {"gfid": "2 images needed (a covariance), 1 there", "gkid": f"2 {KID}, 1 there",
                  "is": f"10 {SPLITS}, 1 there", "precision_recall": f"2 {PRC}, 1 there"}),
])  # fmt: skip
def test_metrics_that_the_counts_do_not_permit(images, reference, kid_subset_size, neighbors, said):
    found = too_few(images, reference, kid_subset_size, neighbors, 1)
    assert found == {f"{name}_skipped": why for name, why in said.items()}


def test_too_few_samples_and_neighbors_leave_out_their_metrics_and_say_so(toy, tmp_path, monkeypatch, capsys):
    write_samples(toy, "nine", np.arange(60) % 10)
    few = {"codes.npy": np.load(toy.samples / "nine/codes.npy")[:, :9], "labels.npy": np.arange(9)}
    rewrite(toy.samples / "nine", few)
    inputs = inputs_of(toy, reference=tmp_path / "reference")
    settings = {"max_images": 39, "prc_neighbors": 200}
    write_reference(inputs.images, inputs.encoder, inputs.classifier, inputs.reference, MACHINE, **settings)
    monkeypatch.setattr(
        "stages.evaluate.score_generation.load_decoder", lambda folder, device, precision: PatchDecoder(toy.patches)
    )
    score_generators(inputs, toy.samples, ["ar", "nine"], tmp_path / "report", GENERATION, MACHINE)
    metrics, printed = json.loads((tmp_path / "report/metrics.json").read_text()), capsys.readouterr().out
    assert metrics["ar"]["gkid_skipped"] == f"40 {KID}, 39 there" and "is[classifier]" in metrics["ar"]
    assert metrics["nine"]["is_skipped"] == f"10 {SPLITS}, 9 there" and "gfid[embedded]" in metrics["nine"]
    assert f"generation: nine: precision recall skipped: 201 {PRC}, 9 there" in printed
    for one in ("val", "ar", "nine"):
        assert not [name for name in metrics[one] if name.startswith(("gkid[", "precision[", "recall["))]


def test_networks_of_another_reference_are_refused(toy, tmp_path):
    write_reference(toy.images, toy.encoder, toy.classifier, tmp_path / "reference", MACHINE, max_images=50)
    with pytest.raises(UserError, match="reference: made with other networks than these.*dvc repro -f -s reference"):
        load_reference(tmp_path / "reference", {})


def rewrite(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """The artifact again, with other arrays."""
    facts = {key: value for key, value in artifact.read(folder).items() if key not in ("artifact", "files")}
    shutil.rmtree(folder)
    with artifact.new_artifact(folder, "samples", facts) as work:
        for name, array in arrays.items():
            np.save(work / name, array)


def test_the_memory_estimate_follows_the_counts(toy, tmp_path, capsys):
    reference = tmp_path / "reference"
    write_reference(toy.images, toy.encoder, toy.classifier, reference, MACHINE, max_images=70)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "peak memory about 1.4 GB" in plan
    assert peak_bytes(50_000, 768, 16) - peak_bytes(40_000, 768, 16) == 10_000 * 4 * (768 + 768)
    assert peak_bytes(1_000, 768, 16) < 1.5e9 < 1.7e9 < peak_bytes(50_000, 768, 16)
    print_estimate(reference, open_samples(inputs_of(toy), toy.samples, ["ar"]), tmp_path)
    plan = capsys.readouterr().out
    assert "70 train images to compare with" in plan and "120 samples" in plan and "peak memory about 1.4 GB" in plan


def test_a_missing_generator_and_foreign_codes_are_named(toy, tmp_path):
    with pytest.raises(UserError, match="masked: no artifact here.*dvc repro"):
        open_samples(inputs_of(toy), toy.samples, ["ar", "masked"])
    write_decoder(tmp_path / "decoder", num_codes=64, grid=8)
    with pytest.raises(UserError, match="16 codes per image, .* takes 64"):
        open_samples(inputs_of(toy, decoder=tmp_path / "decoder"), toy.samples, ["ar"])


def test_weights_must_be_a_safetensors_file(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    for path in (tmp_path / "weights.pth", tmp_path / "absent.safetensors"):
        section = {**REFERENCE.model_dump(), "extractors": {"inception": "mine"}}
        (tmp_path / "params.yaml").write_text(json.dumps({"weights": {"mine": str(path)}, "reference": section}))
        with pytest.raises(UserError, match="reference.extractors.*inception.*existing .safetensors file"):
            load("reference", ReferenceParams, tmp_path / "params.yaml")
