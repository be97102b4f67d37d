"""What an artifact was made from is compared wherever both are at hand. Run: uv run pytest tests/test_origin.py"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy as toys

import semtok
from stages.core import UserError
from stages.core.artifact import CONFIG, digest, images_digest, read, with_checksum
from stages.decoder.decoder import check_codes_of, check_drawn, codebook_of
from stages.decoder.params import Inputs
from stages.decoder.pixel_tokenizer import codebook_in, write_pixel_tokenizer
from stages.decoder.render_training import check_pixel_codes
from stages.generator.params import KINDS

GENERATOR, DECODER, SAMPLES = "data/generator/kmeans-ar", "data/decoder/kmeans-onestep", "data/samples/kmeans/ar"


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """The toy with a decoder, a generator, samples, a classifier and a reference. Read only."""
    root = tmp_path_factory.mktemp("origin") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, {"generators": ["ar"], "alternating_generators": []})
    for command in ("decoder", "generator@kmeans-ar", "samples@kmeans-ar", "classifier", "reference"):
        toys.run(command, root)
    return root


@pytest.fixture
def root(trained, tmp_path):
    """A copy, which a test may change."""
    return shutil.copytree(trained, tmp_path / "toy")


def config(folder: Path) -> dict:
    return read(folder)


def remake(folder: Path, **changes) -> None:
    """Another artifact in the same place, as far as its digest tells; `changes` of its config."""
    (folder / CONFIG).write_bytes(with_checksum({**config(folder), "remade": True, **changes}))


def move_codebook(root: Path, artifact: str) -> None:
    """The artifact as if it were of another codebook."""
    remake(root / artifact, inputs={**config(root / artifact)["inputs"], "codebook": "0" * 64})


def test_generators_and_samples_know_their_codebook_and_their_images(trained):
    book, images = digest(trained / "data/codebook/kmeans"), digest(trained / "data/images")
    for name in (GENERATOR, SAMPLES, DECODER):
        assert config(trained / name)["inputs"].items() >= {"codebook": book, "images": images}.items(), name
    sources = ("images", "features", "codebook/kmeans", "tokens/kmeans", "classifier", "reference")
    assert {images_digest(trained / "data" / name) for name in sources} == {images[:12]}


def test_what_trainings_report_says_of_which_images_it_is(trained):
    found = {path.parent.name: json.loads(path.read_text()) for path in trained.glob("reports/**/metrics.json")}
    assert {*found} == {"digits", "kmeans", "kmeans-onestep", "kmeans-ar", "classifier"}
    assert {one["images"] for one in found.values()} == {images_digest(trained / "data/images")}


@pytest.mark.parametrize("changed", [GENERATOR, DECODER])
def test_codes_of_one_codebook_are_not_decoded_with_another(changed, root):
    move_codebook(root, changed)
    said = "kmeans-ar: draws codes of another kmeans than .*kmeans-onestep decodes. "
    with pytest.raises(UserError, match=said + "Run `dvc repro decoder@kmeans-onestep samples@kmeans-ar`"):
        semtok.load_generator(root / GENERATOR)
    with pytest.raises(UserError, match=said):
        semtok.load_generator(root / GENERATOR, root / DECODER)


def test_of_several_decoders_that_of_the_generators_codebook_is_chosen(root):
    shutil.copytree(root / DECODER, root / "data/decoder/kmeans-older")
    move_codebook(root, "data/decoder/kmeans-older")
    assert semtok.load_generator(root / GENERATOR).decoder.config == config(root / DECODER)


def test_samples_of_another_codebook_are_not_evaluated(root):
    move_codebook(root, SAMPLES)
    with pytest.raises(UserError, match="samples/kmeans/ar: draws codes of another kmeans than .*samples@kmeans-ar"):
        toys.run("generation", root)


def test_samples_of_another_generator_set_nothing_and_a_warning_says_so(root, capsys):
    drawn = config(root / SAMPLES)["sampling"]
    assert semtok.load_generator(root / GENERATOR).sampling.model_dump() == drawn and not capsys.readouterr().err
    remake(root / GENERATOR)
    assert semtok.load_generator(root / GENERATOR).sampling == KINDS["ar"].plain
    said = capsys.readouterr().err
    assert "kmeans/ar were drawn from another generator" in said and "Run `dvc repro samples@kmeans-ar`" in said


@pytest.mark.parametrize(("remade", "command", "refused", "again"), [
    ("images", "codebook", "features", "features"),
    ("images", "ablation", "features", "features"),
    ("images", "tokens", "codebook/kmeans", "codebook@kmeans"),
    ("images", "decoder", "codebook/kmeans", "codebook@kmeans"),
    ("images", "code_analysis", "codebook/kmeans", "codebook@kmeans"),
    ("images", "noise_robustness", "codebook/kmeans", "codebook@kmeans"),
    ("images", "decoding_steps", "codebook/kmeans", "codebook@kmeans"),
    ("images", "resolution_transfer", "codebook/kmeans", "codebook@kmeans"),
    ("images", "reconstruction", "codebook/kmeans", "codebook@kmeans"),
    ("images", "generation", "samples/kmeans/ar", "samples@kmeans-ar"),
    ("images", "reference", "classifier", "classifier"),
    ("encoder", "codebook", "features", "features"),
    ("encoder", "decoder", "codebook/kmeans", "codebook@kmeans"),
    ("encoder", "reconstruction", "codebook/kmeans", "codebook@kmeans"),
    ("encoder", "generation", "reference", "reference"),
    ("classifier", "generation", "reference", "reference"),
])  # fmt: skip
def test_stages_refuse_inputs_that_do_not_belong_together(remade, command, refused, again, root):
    remake(root / "data" / remade)
    shutil.rmtree(root / "data/inputs")  # which names the features of the codebook by their digest
    toys.run("tokenizer_inputs", root)
    said = f"data/{refused}: made from another {remade} artifact than data/{remade}. Run `dvc repro {again}`."
    with pytest.raises(UserError, match=said):
        toys.run(command, root)


def test_a_joint_decoder_belongs_to_the_codebook_around_it(root, tmp_path):
    book, other = root / "data/codebook/kmeans", root / "data/codebook/other"
    shutil.copytree(book, other)
    for folder in (book, other):
        joint = shutil.copytree(root / DECODER, folder / "decoder")
        remake(joint, name="joint", inputs={"images": digest(root / "data/images")})
    remake(other)
    assert codebook_of(book / "decoder") == digest(book) != codebook_of(other / "decoder")
    check_codes_of(book / "decoder", book)
    check_drawn(root / GENERATOR, config(root / GENERATOR), book / "decoder")
    with pytest.raises(UserError, match="was not trained on the codes of .*kmeans"):
        check_codes_of(other / "decoder", book)
    with pytest.raises(UserError, match="draws codes of another kmeans than .*other/decoder decodes"):
        check_drawn(root / GENERATOR, config(root / GENERATOR), other / "decoder")
    alone = shutil.copytree(book / "decoder", tmp_path / "alone")
    assert codebook_of(alone) is None
    sample = semtok.load_generator(root / GENERATOR, alone).sample([0], seed=0)
    assert sample.images.shape == (1, 16, 16, 3) and sample.images.dtype == np.uint8


def test_a_pixel_tokenizer_of_an_older_codebook_or_of_other_images_is_refused(root):
    images, encoder, book = (root / "data" / name for name in ("images", "encoder", "codebook/kmeans"))
    inputs = Inputs("render", images, encoder, book, root / "pixel", root / "out", root / "report")
    write_pixel_tokenizer("render", book, inputs.pixel_tokenizer)
    pixel = codebook_in(inputs.pixel_tokenizer)
    assert pixel is not None
    check_pixel_codes(inputs, pixel)
    remake(book)
    with pytest.raises(UserError, match="pixel: made from another codebook artifact than .*pixel_tokenizer@render"):
        check_pixel_codes(inputs, pixel)
    remake(images)
    with pytest.raises(UserError, match="pixel/tokenizer: made from another images artifact than .*images"):
        check_pixel_codes(inputs, pixel)
