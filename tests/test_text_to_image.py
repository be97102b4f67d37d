"""From captions to images at toy size: the stages text to samples, and the caption checker.

Run: uv run pytest tests/test_text_to_image.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import text_toy

from stages.core import UserError, artifact
from stages.generator.generator import load_generator
from stages.text.reader import load_texts


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    """A folder in which generators by caption were trained and drew samples. Read only."""
    root = text_toy.build(tmp_path_factory.mktemp("ar_text"))
    for generator in ("ar_text", "masked_text"):
        text_toy.run("generator", root, generator=generator)
        text_toy.run("samples", root, generator=generator)
    text_toy.run("caption_checker", root)
    return root


def test_the_text_artifact_holds_every_caption_and_counts_what_has_none(captioned):
    config = artifact.read_config(captioned / "data/text/words", "text")
    images = artifact.read_config(captioned / "data/images", "images")["splits"]
    for split, facts in config["splits"].items():
        texts = load_texts(captioned / "data/text/words", split)
        assert facts["images"] == images[split]["images"] == len(texts.labels) == len(texts.first) - 1
        assert facts["captions"] == images[split]["captions"] == len(texts.captions)
        assert facts["captioned"] == images[split]["sidecars"]["captions"] < facts["images"]
        words = facts["tokens"], facts["unknown"], facts["cut"]
        assert words[0] > 8 * facts["captions"] and words[2] == sum(len(one.split()) > 11 for one in texts.captions)
        rows = texts.first_rows(np.arange(facts["images"]))
        assert (rows < 0).sum() == facts["images"] - facts["captioned"] and not texts.given(rows)[rows < 0].any()


def test_a_generator_by_caption_stands_alone_and_draws_for_any_known_words(captioned, tmp_path):
    folder = captioned / "data/generator/kmeans-ar_text"
    config = artifact.read_config(folder, "generator")
    assert config["text_encoder"] == "words" and config["shape"]["num_classes"] == 0
    generator = load_generator(folder)
    caption = "A SMALL solid red star at the top left"
    two = generator.sample(captions=[caption, None], seed=3)
    assert two.images.shape == (2, 16, 16, 3)
    assert np.array_equal(two.codes[0], generator.sample(captions=[caption], seed=3).codes[0])
    for caption, said in (("a zebra", "no word 'zebra'"), ("a " * 13, "13 tokens, expected 1 to 12"),
                          (" ", "expected a text, or None"), (3, "caption 3: expected a text"),
                          ("星", "no word '星'"), ("a smal star", "near it are small")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            generator.sample(captions=[caption])
    for wrong in ({"classes": [0]}, {}, {"classes": [0], "captions": ["a"]}):
        with pytest.raises(UserError, match=r"expected captions=\[…\], and nothing else"):
            generator.sample(**wrong)


def test_samples_are_drawn_for_val_captions_with_the_classes_of_their_images(captioned):
    for name in ("ar_text", "masked_text"):
        folder = captioned / f"data/samples/kmeans/{name}"
        config, labels = artifact.read_config(folder, "samples"), np.load(folder / "labels.npy")
        captions = (folder / "captions.txt").read_text().split("\n")
        assert config["labels"] == "val captions" and len(captions) == len(labels) == 20
        assert (np.diff(labels) >= 0).all()
        for number, words in zip(labels, captions, strict=True):
            assert f" {text_toy.SHAPES[config['classes'][number]]} at the " in words.partition(", with")[0]


def test_caption_accuracy_stands_beside_chance_and_real_images(captioned):
    text_toy.run_with(captioned, generators=["ar_text", "masked_text"])
    found = json.loads((captioned / "reports/generation/captions/kmeans-onestep-scenes/metrics.json").read_text())
    for group in ("val", "ar_text", "masked_text"):
        for name in ("shape", "color", "position"):
            assert 0 <= found[group][f"caption_accuracy[{name}]"] <= 1 and 0 <= found[group][f"chance[{name}]"] <= 1
        assert found[group]["caption_accuracy[all]"] <= found[group]["caption_accuracy[shape]"]
    assert [entry["of"] for entry in found["protocol"]] == ["val", "ar_text", "masked_text"]
    assert "caption_accuracy[shape]_std" in found["ar_text"]


def test_prompts_of_a_file_take_the_place_of_val_captions(captioned, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red star\na solid blue bar at the top left\n")
    root = text_toy.copy(captioned, tmp_path, samples={"draws": {"prompts": "prompts.txt", "per_class": 2}})
    text_toy.run("samples", root, generator="ar_text")
    folder = root / "data/samples/kmeans/ar_text"
    assert artifact.read_config(folder, "samples")["labels"] == "prompts"
    assert (folder / "captions.txt").read_text().split("\n")[1:3] == ["a red star", "a solid blue bar at the top left"]
    assert (np.load(folder / "labels.npy") == -1).all() and np.load(folder / "codes.npy").shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a red star\n\na bar\n", "prompts.txt: line 2: empty, expected a caption"),
        (
            b"a red star\na purple star\n",
            "prompts.txt: line 2: 'a purple star': the train captions have no word 'purple'",
        ),
        (b"a red star\nb\xe9\n", "prompts.txt: line 2: not UTF-8"),
        (b"a red star\n" + b"a " * 13, "prompts.txt: line 2: .*13 tokens, expected 1 to 12"),
        (b"", "prompts.txt: holds no prompt"),
    ],
)
def test_a_bad_line_of_a_prompt_file_is_named(captioned, tmp_path, content, said):
    (tmp_path / "prompts.txt").write_bytes(content)
    root = text_toy.copy(captioned, tmp_path, samples={"draws": {"prompts": "prompts.txt"}})
    with pytest.raises(UserError, match=said):
        text_toy.run("samples", root, generator="ar_text")


def test_another_text_artifact_than_that_of_the_training_is_refused(captioned, tmp_path):
    root = text_toy.copy(captioned, tmp_path, text={"words": {"size": 20}})
    text_toy.run("text", root)
    with pytest.raises(UserError, match="another one than .* was written for. Run `dvc repro captions`"):
        text_toy.run("samples", root, generator="ar_text")
    text_toy.run("captions", root)
    with pytest.raises(UserError, match="trained with other captions than those of"):
        text_toy.run("samples", root, generator="ar_text")


def test_a_training_by_captions_repeats_to_the_byte(captioned, tmp_path):
    root = text_toy.copy(captioned, tmp_path)
    text_toy.run("generator", root, generator="ar_text")
    files = [one / "data/generator/kmeans-ar_text/model.safetensors" for one in (captioned, root)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_class_generators_are_as_before_and_take_no_captions(captioned, tmp_path):
    root = text_toy.copy(captioned, tmp_path)
    assert artifact.read_with_checksum(root / "data/captions/ar") == {"text_encoder": "", "digest": ""}
    text_toy.run("generator", root, generator="ar")
    config = artifact.read_config(root / "data/generator/kmeans-ar", "generator")
    assert not {"text_encoder", "captions", "condition"} & config.keys() and "caption" not in config["shape"]
    with pytest.raises(UserError, match=r"expected classes=\[…\], and nothing else"):
        load_generator(root / "data/generator/kmeans-ar").sample(captions=["a"])
