"""Folders with few, flat or rare images: every part agrees on the classes, and what cannot be measured says why."""

import json

import numpy as np
import pytest
import toy as toys
import written_reports as written
from PIL import Image
from scoring import write_classifier
from toy_pipeline import MACHINE, write_encoder

from stages.core import UserError, artifact
from stages.core.metrics import count_train
from stages.core.params import load
from stages.evaluate.params import ReferenceParams
from stages.evaluate.reference import build_reference
from stages.generator.params import NO_PROMPTS, SampleDraws, Sampling, load_params
from stages.generator.sample_conditions import trained_classes
from stages.generator.samples import draw_samples
from stages.generator.training import train
from stages.report.page import write_page
from stages.studies.ablation_cell import Inputs as AblationInputs
from stages.studies.ablation_cell import errors, fit_pca, measure
from stages.studies.code_survey import Batch
from stages.studies.encoder_probe import Inputs as ProbeInputs
from stages.studies.encoder_probe import probe
from stages.studies.params import AblationCell, Probe, Tsne
from stages.studies.tsne import FeatureSubset

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, precision="fp32")
RARE = [1 if one == 17 else 2 for one in range(40)]  # train images per class


def write_tokens(folder, train: np.ndarray, val: np.ndarray, classes: int) -> None:
    """A tokens artifact of random codes for images of these classes."""
    facts = {"num_codes": 8, "dtype": "uint16", "grid": 2, "num_patches": 4, "tokenizer": "kmeans", "views": 1}
    facts["classes"] = [f"c{one:02d}" for one in range(classes)]
    facts["inputs"] = {"images": "0" * 64, "codebook": "1" * 64}
    with artifact.new_artifact(folder, "tokens", facts) as out:
        for split, labels in (("train", train), ("val", val)):
            codes = np.random.default_rng(0).integers(0, 8, (1, len(labels), 4)).astype(np.uint16)
            np.save(out / f"{split}.npy", codes)
            np.save(out / f"{split}.labels.npy", labels.astype(np.int64))


def generator_params(root):
    toys.write_params(root)
    return load_params("ar", root / "params.yaml")


def test_forty_classes_of_one_or_two_images_are_trained_and_drawn_in_their_proportions(tmp_path):
    write_tokens(tmp_path / "tokens", np.repeat(np.arange(40), RARE), np.arange(12), 40)
    params = generator_params(tmp_path)
    train(tmp_path / "tokens", tmp_path / "codebook", tmp_path / "kmeans-ar", tmp_path / "report", params, MACHINE)
    config = artifact.read_config(tmp_path / "kmeans-ar", "generator")
    assert config["train_per_class"] == RARE and config["shape"]["num_classes"] == len(config["classes"]) == 40
    assert (config["likelihood"]["val_images"], config["likelihood"]["val_classes"]) == (12, 12)
    draws = SampleDraws(per_class=2, labels="train", seeds=[0], prompts=NO_PROMPTS)
    draw_samples(tmp_path / "kmeans-ar", tmp_path / "samples", draws, PLAIN, MACHINE)
    drawn = artifact.read_config(tmp_path / "samples", "samples")
    labels = np.load(tmp_path / "samples/labels.npy")
    assert drawn["classes"] == config["classes"] and drawn["labels"] == "train" and len(labels) == 80
    assert np.bincount(labels)[17] == 1 == np.bincount(labels).min() and np.bincount(labels).max() == 3


def test_a_class_without_train_images_is_refused_by_name_at_every_door(tmp_path):
    labels = np.array([0, 0, 2, 2])
    for read in (
        lambda: count_train(tmp_path / "tokens", labels, ["a", "b", "c"]),
        lambda: trained_classes(tmp_path, {"classes": ["a", "b"], "train_per_class": [3, 0]}),
        lambda: trained_classes(tmp_path, {"classes": ["a", "b"]}),
    ):
        with pytest.raises(UserError, match="no train image of class 'b', of 3|Run `dvc repro generator`"):
            read()
    write_tokens(tmp_path / "tokens", labels, labels, 3)
    with pytest.raises(UserError, match="tokens: no train image of class 'c01'.*dvc repro data"):
        train(
            tmp_path / "tokens",
            tmp_path / "codebook",
            tmp_path / "kmeans-ar",
            tmp_path / "r",
            generator_params(tmp_path),
            MACHINE,
        )


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Images of one color each, of classes a and b, and an artifact like it with a class c that train lacks."""
    root = tmp_path_factory.mktemp("flat")
    toys.write_params(root)
    write_encoder(root / "encoder")
    for name in ("a", "b"):
        (root / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (16, 16), (20 * number, 90, 90)).save(root / "pictures" / name / f"{name}{number}.png")
    toys.run("data", root)
    config = artifact.read_config(root / "data/images", "images")
    with artifact.new_artifact(root / "older", "images", {**config, "classes": ["a", "b", "c"]}) as folder:
        for name in config["files"]:
            artifact.link(root / "data/images" / name, folder / name)
    return root


def test_classifier_and_probe_refuse_an_artifact_with_such_a_class_and_say_which_classes_val_has(flat, tmp_path):
    params = load("probe", Probe, flat / "params.yaml")
    refused = pytest.raises(UserError, match="older: no train image of class 'c', of 3 classes")
    with refused:
        write_classifier(flat / "older", tmp_path / "classifier", MACHINE)
    with refused:
        probe(ProbeInputs(flat / "older", flat / "encoder"), tmp_path / "probe", params, MACHINE)
    write_classifier(flat / "data/images", tmp_path / "classifier", MACHINE)
    written = json.loads((tmp_path / "classifier-report/metrics.json").read_text())
    assert written["val_classes"] == 2 and 0 <= written["val_accuracy"] <= 1


def test_a_reference_of_fewer_images_than_neighbors_has_no_radii(flat, tmp_path):
    with artifact.new_artifact(tmp_path / "classifier", "classifier", {"shape": None}):
        pass
    params = load("reference", ReferenceParams, flat / "params.yaml").model_copy(update={"prc_neighbors": 50})
    build_reference(flat / "data/images", flat / "encoder", tmp_path / "classifier", tmp_path / "r", params, MACHINE)
    assert artifact.read_config(tmp_path / "r", "reference")["prc_neighbors"] == 50


def test_more_codes_than_vectors_and_equal_features_are_reasons_not_errors(tmp_path):
    with artifact.new_artifact(tmp_path / "features", "features", {
        "splits": {"train": {"images": 10}, "val": {"images": 2}}, "num_patches": 64, "dim": 4,
    }):  # fmt: skip
        pass
    with artifact.new_artifact(tmp_path / "images", "images", {"img_px": 16}):
        pass
    toys.write_params(tmp_path)
    params = load("ablation.cell", AblationCell, tmp_path / "params.yaml")
    measure(AblationInputs(tmp_path / "images", tmp_path / "features", 1024, 0), tmp_path / "report", params, MACHINE)
    said = json.loads((tmp_path / "report/metrics.json").read_text())
    why = "1,024 codes need as many vectors to cluster, 640 there"
    assert said == {
        "images": artifact.images_digest(tmp_path / "images"), "num_codes": 1024, "dim": 0, "skipped": why
    }  # fmt: skip
    features = np.ones((2, 4, 3), np.float32)
    assert errors(features, fit_pca(features.reshape(-1, 3), 0), 0.0) == {"skipped": "all features are equal"}


def test_there_is_no_tsne_of_few_or_equal_features():
    tsne = Tsne(features=100, codes=8, classes=2, perplexity=30.0, iterations=250)
    for images, features, said in ((2, "random", "18 features, more than"), (9, "equal", "all features are equal")):
        shape = (images, 9, 4)
        values = np.random.default_rng(0).normal(size=shape) if features == "random" else np.ones(shape)
        subset = FeatureSubset(np.arange(images) % 2, 9, tsne, seed=0)
        subset.collect(Batch(0, values, values[..., 0].astype(int), values))
        assert said in subset.obstacle()


def test_the_page_is_built_of_what_could_not_be_measured_and_says_why(tmp_path):
    reports = written.write_reports(tmp_path)
    for stage, name in (("noise_robustness", "kmeans"), ("ablation", "8-2"), ("ablation", "8-32")):
        own = {} if stage == "noise_robustness" else {"num_codes": 8, "dim": 2}
        written.write_metrics(reports / stage / name, {**own, "skipped": f"{stage}: too few"})
    path = reports / "generation/kmeans-onestep/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["ar"] = {"gkid_skipped": "200 images needed, 12 there", "likelihood": metrics["ar"]["likelihood"]}
    metrics["val"] = {"skipped": "0 val images"}
    path.write_text(json.dumps(metrics))
    write_page(written.read(reports), reports / "index.html")
    page = (reports / "index.html").read_text()
    for said in ("gkid (200 images needed, 12 there): kmeans-onestep ar", "all (0 val images): kmeans-onestep val",
                 "kmeans: noise_robustness: too few", "8-2: ablation: too few; 8-32: ablation: too few"):  # fmt: skip
        assert said in page, said
    for name in ("16-2",):
        written.write_metrics(reports / "ablation" / name, {"num_codes": 16, "dim": 2, "skipped": "none"})
    write_page(written.read(reports), reports / "index.html")


@pytest.mark.slow
@pytest.mark.parametrize("colors", [12, 1])
def test_twelve_flat_images_of_one_class_reach_the_report(tmp_path, colors):
    tsne = {"features": 1200, "perplexity": 300.0}
    toys.write_params(tmp_path, {
        "data": {"val_fraction": 0.5}, "generation": {"kid_subset_size": 200}, "reference": {"prc_neighbors": 30},
        "code_analysis": {"tsne": tsne}, "probe": {"shots": 10},
    })  # fmt: skip
    (tmp_path / "pictures/only").mkdir(parents=True)
    for number in range(12):
        color = (20 * (number % colors), 90, 200 - 10 * (number % colors))
        Image.new("RGB", (16, 16), color).save(tmp_path / f"pictures/only/{number}.png")
    for command in toys.COMMANDS:
        toys.run(command, tmp_path)
    page = (tmp_path / "reports/index.html").read_text()
    assert "are not of one flat color" in page and "gkid (200 images needed" in page


@pytest.mark.slow
def test_forty_one_classes_agree_from_the_folder_to_the_report(tmp_path):
    """Two images per class, one class of one image, three of junk."""
    toys.write_params(tmp_path, {"data": {"val_fraction": 0.4}, "classifier": {"widths": [8, 48]}})
    names = [f"c{number:02d}" for number in range(41)]
    for number, name in enumerate([*names, "a_junk", "c17_junk", "z_junk"]):
        (folder := tmp_path / "pictures" / name).mkdir(parents=True)
        for image in range(1 if name == "c20" else 2):
            path = folder / f"{image}.png"
            pixels = np.random.default_rng([number, image]).integers(0, 256, (16, 16, 3), np.uint8)
            path.write_text("no image") if "junk" in name else Image.fromarray(pixels).save(path)
    for command in toys.COMMANDS:
        toys.run(command, tmp_path)
    images = artifact.read_config(tmp_path / "data/images", "images")
    assert images["classes"] == names and min(images["splits"]["train"]["per_class"].values()) == 1
    trained = [*images["splits"]["train"]["per_class"].values()]
    for kind in ("ar", "masked"):
        config = artifact.read_config(tmp_path / f"data/generator/kmeans-{kind}", "generator")
        assert (config["classes"], config["train_per_class"]) == (names, trained)
        drawn = np.bincount(np.load(tmp_path / f"data/samples/kmeans/{kind}/labels.npy"), minlength=41)
        assert drawn.sum() == 41 * 5 and drawn.min() > 0 and len(drawn) == 41
    assert artifact.read_config(tmp_path / "data/classifier", "classifier")["classes"] == names
    metrics = json.loads((tmp_path / "reports/generation/kmeans-onestep/metrics.json").read_text())
    assert {one["per_class"]["classes"] for one in metrics["protocol"] if one["of"] in ("ar", "masked")} == {41}
    assert {one["reference_per_class"]["classes"] for one in metrics["protocol"]} == {41}
    assert "kmeans-onestep" in (tmp_path / "reports/index.html").read_text()
