"""The stages reconstruction and generation on a toy pipeline. Run: pytest tests/test_evaluate.py"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scoring import GENERATION, RECONSTRUCTION, REFERENCE, inputs_of, write_classifier, write_reference
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor
from toy_pipeline import MACHINE, PatchDecoder, write_image_artifact, write_samples

from stages.core import UserError, artifact
from stages.data.reader import ImageSplit
from stages.evaluate import metrics
from stages.evaluate.evaluator import open_evaluator
from stages.evaluate.extractors import open_encoder
from stages.evaluate.frechet import fid
from stages.evaluate.params import Inputs
from stages.evaluate.score_generation import score_generators, score_real
from stages.evaluate.score_reconstruction import reconstruct, score_originals, score_reconstructions, score_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


def run(toy, inputs: Inputs, report: Path, generators: tuple[str, ...] = ("ar",)) -> tuple[dict, dict]:
    """metrics.json of both stages, which report in folders of their names."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("score_reconstruction", "score_generation"):
            patch.setattr(
                f"stages.evaluate.{module}.load_decoder", lambda folder, device, precision: PatchDecoder(toy.patches)
            )
        score_tokenizer(inputs, toy.codebook, report / "reconstruction", RECONSTRUCTION, MACHINE)
        score_generators(inputs, toy.samples, list(generators), report / "generation", GENERATION, MACHINE)
    found = (report / stage / "metrics.json" for stage in ("reconstruction", "generation"))
    return tuple(json.loads(path.read_text()) for path in found)


@pytest.fixture(scope="module")
def scored(toy, tmp_path_factory):
    report = tmp_path_factory.mktemp("report")
    return report, *run(toy, inputs_of(toy), report)


@pytest.fixture(scope="module")
def evaluator(toy):
    return open_evaluator(inputs_of(toy), MACHINE, CPU)


def test_metrics_are_there_and_within_their_bounds(scored):
    _, made, drawn = scored
    assert set(made) == {"images", "tokenizer", "val", "reconstruction", "protocol"}
    assert (
        set(drawn) == {"images", "tokenizer", "val", "ar", "protocol"}
        and drawn["tokenizer"].items() < made["tokenizer"].items()
    )
    assert made["val"]["class_accuracy"] > 0.8
    assert 5 < made["reconstruction"]["psnr_db"] < 30 and 0 < made["reconstruction"]["ssim"] < 1
    for key in ("class_accuracy", "precision[embedded]", "recall[embedded]"):
        assert 0 <= drawn["ar"][key] <= 1 and drawn["ar"][f"{key}_std"] >= 0
    assert drawn["ar"]["gfid[embedded]"] > 0 < drawn["ar"]["gfid[classifier]"]
    assert 1 <= drawn["ar"]["is[classifier]"] <= 10
    assert drawn["ar"]["likelihood"]["val_perplexity"] == 7.4
    usage = made["reconstruction"]["code_usage"]
    assert 0 < usage["live_fraction"] <= 1 and 0 < usage["entropy_nats_std"] < 0.2 * usage["entropy_nats"]
    assert made["val"]["neighbors"]["pixel"]["near_copies"] <= 0.03
    assert 0 <= drawn["ar"]["near_copies[pixel]"] <= 1 and drawn["ar"]["near_copies[embedded]_std"] >= 0


def test_every_group_has_its_protocol(scored, toy):
    _, made, drawn = scored
    entries = [{entry["of"]: entry for entry in found["protocol"]} for found in (made, drawn)]
    assert {of: entry["reference"] for of, entry in entries[0].items()} == {"val": "train", "reconstruction": "val"}
    assert {of: entry["reference"] for of, entry in entries[1].items()} == {"val": "train", "ar": "train"}
    weights = artifact.sha256(toy.encoder / "model.safetensors")
    for entry in (*entries[0].values(), *entries[1].values()):
        assert artifact.digest(toy.images).startswith(entry["reference_digest"])
        assert entry["extractors"]["embedded"]["weights_sha256"] == weights
        assert (entry["seed"], entry["pixel_px"]) == (RECONSTRUCTION.seed, REFERENCE.pixel_px)
        assert entry["reference_seed"] == REFERENCE.seed
    ar = entries[1]["ar"]
    assert (ar["kid_subset_size"], ar["prc_neighbors"]) == (GENERATION.kid_subset_size, REFERENCE.prc_neighbors)
    assert ar["seeds"] == [0, 1] and ar["sampler"] == {"temperature": 1.0}
    assert ar["extractors"]["embedded"]["covariance"] == "full rank" and ar["count"] == 60


def test_pictures_show_what_they_should(scored, toy):
    report, sizes = scored[0], {}
    for path in report.glob("*/pictures/*.png"):
        with Image.open(path) as image:
            sizes[path.relative_to(report).as_posix().replace("/pictures/", " ")] = image.size
    line = 17 * 4  # 16 px and a gap, enlarged
    assert sizes["reconstruction reconstructions.png"] == (16 * line - 4, 4 * line - 4)
    assert sizes["generation neighbors-ar.png"] == (6 * line - 4, 3 * line - 4)
    assert sizes["generation samples-ar.png"][0] == 10 * line - 4


def test_two_runs_give_the_same_bytes(scored, toy, tmp_path):
    run(toy, inputs_of(toy), tmp_path)
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (scored[0], tmp_path)
    )
    assert one == two and len(one) == 6


def test_fid_equals_torch_fidelitys_own_command(toy):
    """The encoder, registered with torch-fidelity, gives our numbers there, and FID(x, x) < 1e-3 (statement 28)."""
    extractor = open_encoder(toy.encoder, CPU)

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)
            self.network = extractor.network

        @staticmethod
        def get_provided_features_list():
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pooled"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            return self.network(images)

    register_feature_extractor("encoder-of-the-test", Registered)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, split: str):
            source = ImageSplit(toy.images, split)
            self.images = torch.from_numpy(source.read(range(len(source)))).permute(0, 3, 1, 2)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    train, val = Pictures("train"), Pictures("val")
    settings = {"fid": True, "kid": True, "kid_subset_size": 40, "cuda": False, "cache": False, "verbose": False,
                "save_cpu_ram": True, "feature_extractor": "encoder-of-the-test"}  # fmt: skip
    theirs = calculate_metrics(input1=val, input2=train, **settings)
    with torch.inference_mode():
        one, other = (extractor.features(part.images.permute(0, 2, 3, 1).numpy())[0] for part in (val, train))
    assert fid(one, other) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert metrics.kid(one, other, 40, seed=2020) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert abs(fid(one, one)) < 1e-3
    assert abs(calculate_metrics(input1=val, input2=val, **settings)["frechet_inception_distance"]) < 1e-3


def test_perfect_reconstructions_score_as_the_originals(toy, evaluator):
    class Perfect:
        num_codes = 2

        def encode(self, images):
            self.images = images
            return np.zeros((len(images), 16), np.uint16)

        def decode(self, codes, generator):
            return self.images

    perfect, val = Perfect(), ImageSplit(toy.images, "val")
    made = reconstruct(val, perfect, perfect, evaluator, RECONSTRUCTION.seed)
    found = score_reconstructions(made, val.labels, perfect.num_codes, evaluator, RECONSTRUCTION)
    real = score_originals(val.labels, evaluator, RECONSTRUCTION)
    assert found["class_accuracy"] == real["class_accuracy"] and found["neighbors"] == real["neighbors"]
    assert found["ssim"] == pytest.approx(1)
    assert abs(found["rfid[embedded]"]) < 1e-3 > abs(found["rfid[classifier]"])


def test_real_val_images_are_scored_as_samples_would_be(toy, evaluator, scored):
    val = ImageSplit(toy.images, "val")
    real = evaluator.extract(val.read(range(len(val))))
    everything = score_real(real, val.labels, evaluator, GENERATION)
    wanted = fid(real.features["classifier"], evaluator.reference.train.features["classifier"])
    assert everything["images"] == len(val) and everything["gfid[classifier]"] == pytest.approx(wanted, rel=1e-6)
    assert everything["class_accuracy"] == pytest.approx(scored[1]["val"]["class_accuracy"])
    few = score_real(real.subset(np.arange(10)), val.labels[:10], evaluator, GENERATION)
    assert "40 images needed" in few["gkid_skipped"] and "gfid[embedded]" in few and few["images"] == 10


def test_the_reference_holds_the_val_images(toy, evaluator):
    val = ImageSplit(toy.images, "val")
    wanted, found = evaluator.extract_all(len(val), val.read), evaluator.reference.val
    assert all(torch.equal(found.features[name][:], one) for name, one in wanted.features.items())
    assert torch.equal(found.logits["classifier"], wanted.logits["classifier"])
    assert torch.equal(found.thumbs[:], wanted.thumbs)


def test_without_classes_class_accuracy_and_is_are_skipped_with_the_reason(toy, tmp_path):
    rng = np.random.default_rng(0)
    write_image_artifact(
        tmp_path / "images", rng.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8), np.full(200, -1), []
    )
    write_samples(toy, "unconditional", np.full(60, -1))
    write_classifier(tmp_path / "images", tmp_path / "classifier", MACHINE)
    own = {name: tmp_path / name for name in ("images", "classifier", "reference")}
    inputs = inputs_of(toy, **own)
    write_reference(inputs.images, inputs.encoder, inputs.classifier, inputs.reference, MACHINE)
    made, drawn = run(toy, inputs, tmp_path / "report", ("unconditional",))
    assert made["reconstruction"]["class_accuracy_skipped"] == "no classes"
    assert drawn["unconditional"]["class_accuracy_skipped"] == "no classes" and "is_skipped" in drawn["unconditional"]
    assert "is[classifier]" not in drawn["unconditional"] and "gfid[embedded]" in drawn["unconditional"]
    for entry in made["protocol"] + drawn["protocol"]:
        assert entry["per_class"] is None and "classifier" not in entry["extractors"]
    with pytest.raises(UserError, match="reference: made from another images artifact than .*dvc repro reference"):
        open_evaluator(replace(inputs, images=toy.images), MACHINE, CPU)
