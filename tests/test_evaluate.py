"""The evaluate stage on a toy pipeline. Run: pytest tests/test_evaluate.py"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scoring import PARAMS, REFERENCE, write_reference
from toy_pipeline import MACHINE, PatchDecoder, train_judge, write_image_artefact, write_samples

from stages.core.errors import UserError
from stages.data.reader import ImageSplit
from stages.evaluate.score import Params, check, score


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


@pytest.fixture(autouse=True)
def _patch_decoder(toy, monkeypatch):
    monkeypatch.setattr("stages.decoder.model.load_decoder", lambda folder, device: PatchDecoder(toy.patches))


def run(
    toy, report: Path, params: Params = PARAMS, images: Path | None = None, generators: tuple[str, ...] = ("ar",),
    judge: Path | None = None, reference: Path | None = None,
) -> dict:  # fmt: skip
    """metrics.json of one run."""
    samples = check(reference or toy.reference, toy.codebook, toy.samples, list(generators), params)
    score(
        images or toy.images,
        toy.encoder,
        judge or toy.judge,
        reference or toy.reference,
        toy.codebook,
        toy.root / "decoder",
        samples,
        report,
        params,
        MACHINE,
    )
    return json.loads((report / "metrics.json").read_text())


@pytest.fixture(scope="module")
def scored(toy, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.decoder.model.load_decoder", lambda folder, device: PatchDecoder(toy.patches))
        report = tmp_path_factory.mktemp("report")
        return report, run(toy, report)


def test_figures_are_there_and_within_their_bounds(scored):
    _, metrics = scored
    assert set(metrics) == {"tokenizer", "val", "reconstruction", "ar", "protocol"}
    assert metrics["val"]["agreement"] > 0.8
    assert 5 < metrics["reconstruction"]["psnr_db"] < 30 and 0 < metrics["reconstruction"]["ssim"] < 1
    for key in ("agreement", "precision[embedded]", "recall[embedded]"):
        assert 0 <= metrics["ar"][key] <= 1 and metrics["ar"][f"{key}_std"] >= 0
    assert (
        metrics["ar"]["gfid[embedded]"] > 0
        and 1 <= metrics["ar"]["is[judge]"] <= 10
        and metrics["ar"]["gfid[judge]"] > 0
    )
    assert metrics["ar"]["likelihood"]["val_perplexity"] == 7.4
    usage = metrics["reconstruction"]["code_usage"]
    assert 0 < usage["live_fraction"] <= 1 and 0 < usage["entropy_nats_std"] < 0.2 * usage["entropy_nats"]
    assert metrics["val"]["neighbours"]["pixel"]["near_copies"] <= 0.03
    assert 0 <= metrics["ar"]["near_copies[pixel]"] <= 1 and metrics["ar"]["near_copies[embedded]_std"] >= 0


def test_every_group_has_its_protocol(scored, toy):
    from stages.core import artefact

    _, metrics = scored
    entries = {entry["of"]: entry for entry in metrics["protocol"]}
    assert set(entries) == set(metrics) - {"tokenizer", "protocol"} | {"as_samples"}
    assert {of: entry["reference"] for of, entry in entries.items()} == {
        "val": "train",
        "reconstruction": "val",
        "as_samples": "train",
        "ar": "train",
    }
    assert all(artefact.digest(toy.images).startswith(entry["reference_digest"]) for entry in entries.values())
    weights = artefact.sha256(toy.encoder / "model.safetensors")
    assert all(entry["extractors"]["embedded"]["weights_sha256"] == weights for entry in entries.values())
    assert all((entry["seed"], entry["pixel_px"]) == (PARAMS.seed, REFERENCE.pixel_px) for entry in entries.values())
    assert all(entry["reference_seed"] == REFERENCE.seed for entry in entries.values())
    assert entries["ar"]["seeds"] == [0, 1] and entries["ar"]["sampler"] == {"temperature": 1.0}
    assert entries["ar"]["extractors"]["embedded"]["covariance"] == "full rank" and entries["ar"]["count"] == 60


def test_pictures_show_what_they_should(scored, toy):
    from PIL import Image

    report, _ = scored
    sizes = {}
    for path in report.glob("pictures/*.png"):
        with Image.open(path) as image:
            sizes[path.name] = image.size
    line = 17 * 4  # 16 px and a gap, enlarged
    assert sizes["reconstructions.png"] == (16 * line - 4, 4 * line - 4)
    assert sizes["neighbours-ar.png"] == (6 * line - 4, 3 * line - 4)
    assert sizes["samples-ar.png"][0] == 10 * line - 4


def test_two_runs_give_the_same_bytes(scored, toy, tmp_path):
    report, _ = scored
    run(toy, tmp_path)
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")} for root in (report, tmp_path)
    )
    assert one == two and len(one) == 4


def test_fid_equals_torch_fidelitys_own_command(toy):
    """The registered extractor works in calculate_metrics, gives our numbers, and FID(x, x) < 1e-3 (statement 28)."""
    from torch_fidelity import calculate_metrics

    from stages.core import likeness
    from stages.encoder.space import EMBEDDED, open_embedded
    from stages.evaluate import metrics

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
                "save_cpu_ram": True, "feature_extractor": EMBEDDED,
                "feature_extractor_weights_path": str(toy.encoder)}  # fmt: skip
    theirs = calculate_metrics(input1=val, input2=train, **settings)
    space = open_embedded(toy.encoder, torch.device("cpu"))
    with torch.inference_mode():
        one, other = (space.features(part.images.permute(0, 2, 3, 1).numpy())[0] for part in (val, train))
    assert likeness.fid(one, other) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert metrics.kid(one, other, 40, seed=2020) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert abs(likeness.fid(one, one)) < 1e-3
    assert abs(calculate_metrics(input1=val, input2=val, **settings)["frechet_inception_distance"]) < 1e-3


def test_agreement_of_perfect_reconstructions_is_the_judges_accuracy(toy):
    from stages.evaluate.bench import set_up
    from stages.evaluate.reconstruction import score_reconstruction

    class Perfect:
        num_codes = 2

        def encode(self, images):
            self.images = images
            return np.zeros((len(images), 16), np.uint16)

        def decode(self, codes, generator):
            return self.images

    bench = set_up(toy.images, toy.encoder, toy.judge, toy.reference, PARAMS, MACHINE, torch.device("cpu"))
    perfect = Perfect()
    figures, *_ = score_reconstruction(ImageSplit(toy.images, "val"), perfect, perfect, bench)
    assert figures["reconstruction"]["agreement"] == figures["val"]["agreement"]
    assert figures["reconstruction"]["neighbours"] == figures["val"]["neighbours"]
    assert figures["reconstruction"]["ssim"] == pytest.approx(1)
    assert abs(figures["reconstruction"]["rfid[embedded]"]) < 1e-3 > abs(figures["reconstruction"]["rfid[judge]"])


def test_real_val_images_are_scored_as_samples_would_be(toy, scored):
    from stages.core import likeness
    from stages.evaluate.bench import set_up
    from stages.evaluate.generation import score_real

    bench = set_up(toy.images, toy.encoder, toy.judge, toy.reference, PARAMS, MACHINE, torch.device("cpu"))
    val = ImageSplit(toy.images, "val")
    sight = bench.look(val.read(range(len(val))))
    everything = score_real(sight, val.labels, bench)["as_samples"]
    wanted = likeness.fid(sight.features["judge"], bench.reference.sight.features["judge"])
    assert everything["images"] == len(val) and everything["gfid[judge]"] == pytest.approx(wanted, rel=1e-6)
    assert everything["agreement"] == pytest.approx(scored[1]["val"]["agreement"])
    assert scored[1]["val"]["as_samples"]["images"] == min(len(val), 60), "as many as samples of one seed"
    assert (
        "10 val images: 40 are needed"
        in score_real(sight.rows(np.arange(10)), val.labels[:10], bench)["as_samples_skipped"]
    )


def test_without_classes_agreement_and_is_are_skipped_with_the_reason(toy, tmp_path):
    rng = np.random.default_rng(0)
    write_image_artefact(
        tmp_path / "images", rng.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8), np.full(200, -1), []
    )
    write_samples(toy, "unconditional", np.full(60, -1))
    train_judge(tmp_path / "images", tmp_path / "judge")
    found = {name: tmp_path / name for name in ("images", "judge", "reference")}
    write_reference(found["images"], toy.encoder, found["judge"], found["reference"], MACHINE)
    metrics = run(toy, tmp_path / "report", generators=("unconditional",), **found)
    assert metrics["reconstruction"]["agreement_skipped"] == "no classes"
    assert metrics["unconditional"]["agreement_skipped"] == "no classes" and "is_skipped" in metrics["unconditional"]
    assert "is[judge]" not in metrics["unconditional"] and "gfid[embedded]" in metrics["unconditional"]
    assert all(entry["per_class"] is None and "judge" not in entry["extractors"] for entry in metrics["protocol"])


def test_inception_from_safetensors(toy, tmp_path, monkeypatch):
    from safetensors.torch import save_file
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from stages.reference.extractor import InceptionExtractor, open_inception

    path = tmp_path / "inception.safetensors"
    save_file({}, path)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        untrained = InceptionExtractor("semtok-inception-v3", ["2048"], str(path))
    save_file(untrained.state_dict(), path)
    space = open_inception(path, torch.device("cpu"))
    images = ImageSplit(toy.images, "val").read(range(2))
    feats, logits = space.features(images)
    assert feats.shape == (2, 2048) and logits.shape == (2, 1008)
    assert torch.equal(feats, untrained(torch.from_numpy(images).permute(0, 3, 1, 2))[0])
    save_file({"fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(UserError, match="not torch-fidelity's Inception-v3 weights"):
        open_inception(path, torch.device("cpu"))
    for content in (b"", b"no safetensors at all", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="inception.safetensors: not torch-fidelity's Inception-v3 weights"):
            open_inception(path, torch.device("cpu"))
