"""The Python API: `import semtok`, artifacts on their own, classes by name, sampling settings.

Run: uv run pytest tests/test_api.py
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import toy as toys

import semtok
from stages.core import UserError, artifact
from stages.generator.neighbors import sampling_of
from stages.generator.params import KINDS

SETTINGS = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 0.95,
    "guidance": 1.5,
    "precision": "bf16",
}  # samples.ar in params.yaml


def test_importing_semtok_and_listing_its_loaders_does_not_import_torch():
    code = "import sys, semtok; semtok.list_artifacts('.'); print(dir(semtok)); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=toys.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{semtok.__all__}\n"), done.stderr
    with pytest.raises(AttributeError, match="module 'semtok' has no attribute 'load_images'"):
        _ = semtok.load_images


def test_images_of_classes_by_number_and_by_name(trained):
    generator = semtok.load_generator(trained / "generator/kmeans-ar")
    sample = generator.sample(classes=[0, 3, None], seed=0)
    assert sample.codes.shape == (3, 16) and sample.images.shape == (3, 16, 16, 3) and sample.images.dtype == np.uint8
    assert sample.codes.dtype == np.int64
    decoder = semtok.load_decoder(trained / "decoder/kmeans-onestep")
    assert np.array_equal(sample.images, decoder.decode(sample.codes))
    assert generator.classes == list(toys.CLASSES)
    by_name = generator.sample(classes=["bars", np.int64(3), None], seed=0)
    assert np.array_equal(sample.codes, by_name.codes)


@pytest.mark.parametrize(
    ("classes", "changes", "said"),
    [
        ([4], {}, "class 4: expected a number from 0 to 3, a class name, or None"),
        (["bar"], {}, r"class 'bar': unknown; did you mean bars\?"),
        (["zebra"], {}, "class 'zebra': unknown; there is bars, columns, dark, light$"),
        ([0], {"temperature": -1.0}, "temperature = -1.0: .* The settings are temperature, top_k, top_p, guidance"),
        ([0], {"steps": 3}, "steps = 3: "),
    ],
)
def test_impossible_classes_and_settings_are_refused(trained, classes, changes, said):
    with pytest.raises(UserError, match=said):
        semtok.load_generator(trained / "generator/kmeans-ar").sample(classes, seed=0, **changes)


def test_settings_are_those_of_the_samples_beside_it_else_plain_and_any_can_be_given(trained, tmp_path):
    beside = semtok.load_generator(trained / "generator/kmeans-ar")
    assert beside.sampling.model_dump() == SETTINGS
    drawn, labels = (np.load(trained / f"samples/kmeans/ar/{name}.npy") for name in ("codes", "labels"))
    assert np.array_equal(beside.sample(labels.tolist(), seed=0).codes, drawn[0])
    alone, decoder = (
        shutil.copytree(trained / "generator/kmeans-ar", tmp_path / "mine"),
        trained / "decoder/kmeans-onestep",
    )
    fetched = semtok.load_generator(alone, decoder=decoder)
    assert fetched.sampling == KINDS["ar"].plain != beside.sampling
    assert np.array_equal(fetched.sample([0, 1], seed=0, **SETTINGS).codes, beside.sample([0, 1], seed=0).codes)


def test_artifacts_that_were_moved_load_from_any_working_directory(trained, tmp_path, monkeypatch):
    codes = semtok.load_generator(trained / "generator/kmeans-ar").sample(["dark"], seed=1).codes
    moved = shutil.copytree(trained, tmp_path / "elsewhere/data")
    monkeypatch.chdir(moved / "generator")
    assert np.array_equal(semtok.load_generator("kmeans-ar").sample(["dark"], seed=1).codes, codes)
    monkeypatch.chdir("kmeans-ar")
    assert np.array_equal(semtok.load_generator(".").sample(["dark"], seed=1).codes, codes)


def test_without_one_decoder_for_its_codes_it_asks_for_a_path(trained, tmp_path):
    generator, decoder = trained / "generator/kmeans-ar", trained / "decoder/kmeans-onestep"
    moved = shutil.copytree(generator, tmp_path / "data/generator/kmeans-ar")
    with pytest.raises(UserError, match="found none. Pass load_generator.*, decoder=PATH.* or run `dvc repro decoder`"):
        semtok.load_generator(moved)
    for name in ("a", "b"):
        shutil.copytree(decoder, tmp_path / f"data/decoder/kmeans-{name}")
    with pytest.raises(UserError, match="found kmeans-a, kmeans-b. Pass"):
        semtok.load_generator(moved)
    foreign = tmp_path / "data/decoder/kmeans-b/config.json"
    foreign.write_bytes(artifact.with_checksum({**artifact.read(foreign.parent), "tokenizer": "vqgan"}))
    assert semtok.load_generator(moved).decoder.config["tokenizer"] == "kmeans"
    with pytest.raises(UserError, match="decodes codes of vqgan, .* draws codes of kmeans"):
        semtok.load_generator(moved, foreign.parent)


def test_a_generator_never_trained_without_a_class_draws_no_sample_without_one(trained, tmp_path):
    moved = shutil.copytree(trained / "generator/kmeans-ar", tmp_path / "data/generator/kmeans-ar")
    facts = {**artifact.read(moved), "class_dropout": 0.0}
    (moved / "config.json").write_bytes(artifact.with_checksum(facts))
    generator = semtok.load_generator(moved, trained / "decoder/kmeans-onestep")
    assert len(generator.sample([0], guidance=1.0).codes) == 1
    for classes, guidance in (([None], 1.0), ([0], 1.5)):
        with pytest.raises(UserError, match="trained with class_dropout 0, so never without a class"):
            generator.sample(classes, guidance=guidance)


def test_settings_of_another_version_are_refused_with_the_way_out(trained):
    folder = trained / "generator/kmeans-ar"
    config = artifact.read_config(folder, "generator")
    older = {name: value for name, value in config["sampling"].items() if name != "precision"}
    with pytest.raises(UserError, match=r"kmeans-ar: of another version, .* \(precision\). Run `dvc repro`"):
        sampling_of(folder, {**config, "name": "undrawn", "sampling": older})
