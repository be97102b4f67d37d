"""What samples are compared with: train, val, a folder of images or published statistics; each with its digest.

Run: uv run pytest tests/test_compared.py
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
import webdataset
from PIL import Image
from scoring import GENERATION, REFERENCE, inputs_of, write_reference
from toy_pipeline import MACHINE, PatchDecoder

from stages.core import UserError
from stages.core.params import load
from stages.data.reader import ImageSplit
from stages.evaluate.compared import Folder
from stages.evaluate.extractors import open_encoder
from stages.evaluate.frechet import fid, gaussian
from stages.evaluate.params import ReferenceParams
from stages.evaluate.score_generation import score_generators

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


def scored(toy, root: Path, **changes) -> dict:
    """metrics.json of the toy's samples, with changed params of the reference."""
    inputs = inputs_of(toy, reference=root / "reference")
    write_reference(inputs.images, inputs.encoder, inputs.classifier, inputs.reference, MACHINE, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.evaluate.score_generation.load_decoder", lambda *_: PatchDecoder(toy.patches))
        score_generators(inputs, toy.samples, ["ar"], root / "report", GENERATION, MACHINE)
    found = json.loads((root / "report/metrics.json").read_text())
    return {
        "metrics": found["ar"],
        "val": found["val"],
        "protocol": {one["of"]: one for one in found["protocol"]}["ar"],
    }


@pytest.fixture(scope="module")
def default(toy, tmp_path_factory):
    return scored(toy, tmp_path_factory.mktemp("default"))


def pictures_of(toy, folder: Path, split: str = "train") -> Path:
    """The toy's images as files."""
    images = ImageSplit(toy.images, split)
    folder.mkdir(parents=True)
    for number, image in enumerate(images.read(range(len(images)))):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return folder


def npz_of(toy, path: Path) -> Path:
    """mu and sigma of the train images, by the encoder, as ADM's evaluator stores them."""
    images = ImageSplit(toy.images, "train")
    with torch.inference_mode():
        of = gaussian(open_encoder(toy.encoder, CPU).features(images.read(range(len(images))))[0])
    np.savez(path, mu=of.mean.astype(np.float32), sigma=of.covariance, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    return path


def test_a_folder_with_the_train_images_gives_their_numbers_under_another_digest(toy, default, tmp_path):
    folder = pictures_of(toy, tmp_path / "pictures")
    found = scored(toy, tmp_path, compare_with="statistics", statistics=str(folder))
    assert found["metrics"] == default["metrics"]
    entry = found["protocol"]
    assert (entry["reference"], entry["reference_count"]) == ("statistics", default["protocol"]["reference_count"])
    assert entry["reference_digest"] != default["protocol"]["reference_digest"] and entry["reference_per_class"] is None


def test_one_changed_image_of_the_folder_changes_the_digest_and_the_number(toy, tmp_path):
    folder = pictures_of(toy, tmp_path / "pictures")
    before = scored(toy, tmp_path / "a", compare_with="statistics", statistics=str(folder))
    Image.new("RGB", (16, 16), "red").save(folder / "0007.png")
    after = scored(toy, tmp_path / "b", compare_with="statistics", statistics=str(folder))
    assert before["protocol"]["reference_digest"] != after["protocol"]["reference_digest"]
    assert before["metrics"]["gfid[embedded]"] != after["metrics"]["gfid[embedded]"]
    (folder / "0007.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="reference.statistics: .*0007.png: not an image file"):
        scored(toy, tmp_path / "c", compare_with="statistics", statistics=str(folder))


def test_a_mean_and_a_covariance_give_fid_alone(toy, default, tmp_path):
    path = npz_of(toy, tmp_path / "virtual.npz")
    found = scored(toy, tmp_path, compare_with="statistics", statistics=str(path), statistics_by="embedded")
    metrics, of_train = found["metrics"], default["metrics"]
    assert metrics["gfid[embedded]"] == pytest.approx(of_train["gfid[embedded]"], rel=1e-5)
    assert metrics["gfid_infinity[embedded]"] == pytest.approx(of_train["gfid_infinity[embedded]"], rel=1e-4)
    assert {name for name in metrics if "skipped" in name} == {
        "gkid_skipped", "precision_recall_skipped", "density_coverage_skipped"
    }  # fmt: skip
    assert not [name for name in metrics if name.startswith(("gkid[", "precision[", "density[", "gfid[classifier"))]
    assert metrics["is[classifier]"] == of_train["is[classifier]"] and "class_accuracy" in metrics
    assert metrics["neighbors"] == of_train["neighbors"], "near copies are of train images all the same"
    entry = found["protocol"]
    assert (entry["reference_of"], entry["reference_count"]) == ("embedded", None)
    assert entry["proportions_apart"] is None and len(entry["reference_digest"]) == 12


def test_samples_compared_with_val_images_have_no_val_row(toy, default, tmp_path):
    found = scored(toy, tmp_path, compare_with="val")
    val = ImageSplit(toy.images, "val")
    assert found["protocol"]["reference"] == "val" and found["protocol"]["reference_count"] == len(val)
    assert found["metrics"]["gfid[embedded]"] != default["metrics"]["gfid[embedded]"]
    assert found["val"] == {"skipped": "samples are compared with these images"}


def test_statistics_that_cannot_be_read_are_named(toy, tmp_path):
    wrong = {
        "empty": {},
        "mu and sigma": {"mu": np.zeros(32)},
        "mu \\[8\\] and sigma \\[8, 8\\]; the extractor embedded has 32": {"mu": np.zeros(8), "sigma": np.eye(8)},
        "not symmetric": {"mu": np.zeros(32), "sigma": np.triu(np.ones((32, 32)))},
        "or not finite": {"mu": np.full(32, np.nan), "sigma": np.eye(32)},
    }
    for number, (message, arrays) in enumerate(wrong.items()):
        np.savez(path := tmp_path / f"{number}.npz", **arrays)
        if not arrays:
            path.write_bytes(b"")
        expected = "expected a .npz with mu and sigma" if message in ("empty", "mu and sigma") else message
        with pytest.raises(UserError, match=expected):
            scored(toy, tmp_path, compare_with="statistics", statistics=str(path), statistics_by="embedded")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare_with": "statistics"}, "expected a .npz file or a folder of images"),
        ({"compare_with": "statistics", "statistics": "absent.npz"}, "expected a .npz file or a folder of images"),
        ({"statistics": "absent.npz"}, "with compare_with: train, expected .*, or data/code/no_folder"),
        ({"compare_with": "statistics", "statistics": "there.npz"}, "statistics_by = 'inception': no extractor in use"),
        ({"compare_with": "test"}, "compare_with"),
        (
            {"extractors": {"vgg": "there"}},
            "vgg: no such extractor; there is inception, efficientnet_lite0, ",
        ),
        ({"extractors": {"inception": "other"}}, r"expected a name of the section weights \(there\)"),
        ({"extractors": {"inception": "there"}}, "inception = 'there.npz': expected an existing .safetensors file"),
    ],
)
def test_impossible_values_are_refused_at_the_door(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.npz").touch()
    params = {"weights": {"there": "there.npz"}, "reference": {**REFERENCE.model_dump(), **changes}}
    Path("params.yaml").write_text(json.dumps(params))
    with pytest.raises(UserError, match=f"(?s)reference.*{message}"):
        load("reference", ReferenceParams)


def test_the_same_images_through_folder_shards_and_tensors_have_the_same_fid(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, extractor = pictures_of(toy, tmp_path / "pictures"), open_encoder(toy.encoder, CPU)
    paths = sorted(folder.iterdir())
    with webdataset.TarWriter("shards.tar", encoder=False) as tar:
        for path in paths:
            tar.write({"__key__": path.stem, "png": path.read_bytes()})
    Path("shards").mkdir()
    shutil.move("shards.tar", "shards/train-00.tar")
    tensors = np.stack([np.asarray(Image.open(io.BytesIO(path.read_bytes()))) for path in paths])

    def through(**section) -> np.ndarray:
        made = [ImageSplit(photos.make(**section), split) for split in ("train", "val")]
        return np.concatenate([split.read(range(len(split))) for split in made])

    sets = {"tensors": tensors, "folder": through(folder=folder)}
    no_classes = photos.WEBDATASET.model_copy(update={"class_field": ""})
    sets["shards"] = through(folder=Path("shards"), source="webdataset", webdataset=no_classes)
    statistics = Folder(folder, 16, REFERENCE)
    sets["reference"] = statistics.read(range(len(statistics)))
    other = ImageSplit(toy.images, "val")
    with torch.inference_mode():
        real = extractor.features(other.read(range(len(other))))[0]
        found = {name: fid(extractor.features(images)[0], real) for name, images in sets.items()}
    assert {len(images) for images in sets.values()} == {len(paths)} and found["tensors"] > 0
    assert [*found.values()] == pytest.approx([found["tensors"]] * 4, rel=1e-6)
