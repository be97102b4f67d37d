"""Text encoders: vocabularies of words and byte pairs, and frozen text models, tiny random ones of several families.

Run: uv run pytest tests/test_text.py
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import MACHINE, good_images, make

from stages.core import UserError, artifact
from stages.text import transformer, vocabulary
from stages.text.lines import Lines, write_lines
from stages.text.params import Transformer, Vocabulary
from stages.text.reader import load_encoder, load_texts
from stages.text.writer import write_text

WORDS = Vocabulary(kind="vocabulary", model="word", size=100, max_length=6, lowercase=True)
TEXTS = {
    0: "a red star",
    1: "A Blue disc\nthe red disc, at the top left",
    2: "红色 星星",
    3: "<padding> <unknown>",
    4: "café",
}


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """12 images, of which 5 in train have captions, and two in val."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("val", 4)):
        good_images(tmp_path / "photos" / split / "a", count)
    for number, text in TEXTS.items():
        (tmp_path / f"photos/train/a/{number}.txt").write_text(text)
    (tmp_path / "photos/val/a/0.txt").write_text("a green star\na red disc")
    (tmp_path / "photos/val/a/3.txt").write_text("a red star at the top left of the disc")
    return make(tmp_path / "photos")


def words_of(folder: Path, split: str, row: int) -> list[str]:
    """What the vocabulary kept of a caption."""
    ids = load_texts(folder, split).given(np.array([row]))[0]
    return [vocabulary.Encoder(folder / "encoder").vocabulary.id_to_token(int(one)) for one in ids if one]


# --- vocabularies -----------------------------------------------------------------------------------------------------


def test_words_keep_everything_but_upper_case_and_are_padded_on_the_left(images, capsys):
    write_text("words", images, out := Path("text/words"), WORDS, MACHINE)
    train = load_texts(out, "train")
    assert [*train.captions] == [line for text in TEXTS.values() for line in text.split("\n")]
    assert words_of(out, "train", 0) == ["a", "red", "star"]
    assert words_of(out, "train", 2) == ["the", "red", "disc", ",", "at", "the"], "the rest is cut off"
    assert words_of(out, "train", 3) == ["红色", "星星"] and words_of(out, "train", 5) == ["café"]
    assert words_of(out, "train", 4) == ["<", "padding", ">", "<", "unknown", ">"], "a caption is text, not markup"
    assert words_of(out, "val", 0) == ["a", "<unknown>", "star"]
    given = train.given(np.array([0, -1]))
    assert given.dtype == torch.int64 and (given[0] > 0).tolist() == [False] * 3 + [True] * 3 and not given[1].any()
    facts = artifact.read_config(out, "text")["splits"]
    assert facts["train"] == {"images": 8, "captioned": 5, "captions": 6, "cut": 1, "tokens": 23, "unknown": 0}
    assert facts["val"] == {"images": 4, "captioned": 2, "captions": 3, "cut": 1, "tokens": 16, "unknown": 2}
    printed = capsys.readouterr().out
    assert "train: 6 captions of 5 images; 3 images have none and train without\n" in printed
    assert "train: 1 captions are longer than max_length = 6: their ends are cut\n" in printed
    assert "val: 2 of 16 tokens are unknown\n" in printed


def test_byte_pairs_know_every_word_in_any_script(images):
    params = WORDS.model_copy(update={"model": "bpe", "size": 270, "max_length": 40})
    write_text("pairs", images, Path("text/pairs"), params, MACHINE)
    assert artifact.read_config(Path("text/pairs"), "text")["splits"]["val"]["unknown"] == 0
    encoder = load_encoder(Path("text/pairs/encoder"))
    for caption in ("a zebra in green", "звезда 星", "<padding>"):
        ids = encoder.encode(caption)
        assert ids[-1] > 1 and ids.shape == (40,)


@pytest.mark.parametrize("model", ["word", "bpe"])
def test_a_vocabulary_repeats_to_the_byte(images, model):
    params = WORDS.model_copy(update={"model": model, "size": 262})
    for name in ("one", "two"):
        write_text("words", images, Path(name), params, MACHINE)
    assert (Path("one") / "config.json").read_bytes() == (Path("two") / "config.json").read_bytes()


def test_the_rarest_words_are_unknown_beyond_the_size(images):
    write_text("words", images, out := Path("text"), WORDS.model_copy(update={"size": 5}), MACHINE)
    known = set(vocabulary.Encoder(out / "encoder").vocabulary.get_vocab())
    assert {"<padding>", "<unknown>"} < known and len(known) == 5
    with pytest.raises(UserError, match="the train captions have no word 'café'"):
        load_encoder(out / "encoder").encode("café")


def test_images_without_captions_are_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good_images(tmp_path / "photos")
    with pytest.raises(UserError, match="no train image has a caption"):
        write_text("words", make(tmp_path / "photos"), Path("text"), WORDS, MACHINE)


def test_one_of_several_captions_is_drawn_and_none_is_minus_one(images):
    write_text("words", images, Path("text"), WORDS, MACHINE)
    texts, every = load_texts(Path("text"), "train"), np.arange(8)
    assert texts.first_rows(every).tolist() == [0, 1, 3, 4, 5, -1, -1, -1]
    drawn = {int(row) for draw in (0.0, 0.3, 0.6, 0.999) for row in texts.drawn_rows(every, np.full(8, draw))[1:2]}
    assert drawn == {1, 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"model": "bpe"}, "expected at least 258"), ({"size": 2}, "size"), ({"max_length": 0}, "max_length"),
     ({"model": "wordpiece"}, "model")],
)  # fmt: skip
def test_impossible_vocabularies_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Vocabulary(**WORDS.model_dump() | changes)


def test_lines_are_read_by_number(tmp_path):
    texts = ["a", "", "ü\u2028x", "end"]
    write_lines(tmp_path / "t.txt", texts)
    lines = Lines(tmp_path / "t.txt")
    assert [*lines] == texts and lines[1:3] == texts[1:3] and lines[4:] == [] and len(lines) == 4


# --- frozen text models -----------------------------------------------------------------------------------------------

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


def tiny(folder: Path, family: str) -> Transformer:
    """A random text model of a family, saved as a hub's folder would be, and params that name it."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    text = {**TINY, "max_position_embeddings": 20, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**TINY, "image_size": 16, "patch_size": 8} | {"num_hidden_layers": 1}
    vision.pop("vocab_size")
    t5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    model = {
        "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5, decoder_start_token_id=0)),
        "clip": lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**TINY)),
    }[family]()
    names = ["<pad>", "</s>", "<s>", "<unk>", *"a red blue star disc the at top left of".split()]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return Transformer(kind="transformer", folder=str(folder), max_length=8, precision="fp32", shard_captions=2)


@pytest.mark.parametrize("family", ["t5", "clip", "bert"])
def test_frozen_features_are_those_of_the_model_padded_on_the_left(images, tmp_path, family):
    write_text("frozen", images, out := Path("text/frozen"), tiny(tmp_path / family, family), MACHINE)
    config = artifact.read_config(out, "text")
    assert config["shape"] == {"length": 8, "features": 16} and config["splits"]["val"]["cut"] == 1
    texts = load_texts(out, "train")
    given = texts.given(np.array([0, -1, 2]))
    assert given.shape == (3, 8, 17) and given.dtype == torch.float32 and not given[1].any()
    assert given[0, :, -1].tolist() == [0] * 5 + [1] * 3 and not given[0, :5].any()
    words, model = transformer.open_model(tmp_path / family, "")
    plain = model(**words(["a red star"], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(given[0, 5:, :-1], plain, atol=1e-5, rtol=1e-5)
    encoder = load_encoder(out / "encoder")
    torch.testing.assert_close(encoder.encode("a red star"), given[0], atol=1e-5, rtol=1e-5)
    assert encoder.encode("a zebra 星").isfinite().all(), "unknown words are the model's own token for them"
    with pytest.raises(UserError, match="9 tokens, expected 1 to 8"):
        encoder.encode("a red star at the top left of the")


def test_features_in_half_precision_are_near_and_half_as_large(images, tmp_path):
    params, found, sizes = tiny(tmp_path / "t5", "t5"), {}, {}
    for precision in ("fp32", "fp16", "bf16"):
        out = Path(f"text/{precision}")
        write_text("frozen", images, out, params.model_copy(update={"precision": precision}), MACHINE)
        found[precision] = load_texts(out, "train").given(np.arange(6))
        sizes[precision] = np.load(out / "train-000000.npy").nbytes
    assert sizes["fp16"] == sizes["bf16"] == sizes["fp32"] / 2
    for precision, tolerance in (("fp16", 2e-3), ("bf16", 2e-2)):
        torch.testing.assert_close(found[precision], found["fp32"], atol=tolerance, rtol=tolerance)
        assert not torch.equal(found[precision], found["fp32"])


def test_shards_bound_memory_and_a_killed_run_continues_to_the_same_bytes(images, tmp_path, monkeypatch):
    params = tiny(tmp_path / "t5", "t5")
    write_text("frozen", images, Path("whole"), params, MACHINE)
    written, write = [], transformer.write_shard

    def dies(shard: Path, captions: list[str], *rest) -> None:
        written.append(len(captions))
        if len(written) == 3:
            raise KeyboardInterrupt
        write(shard, captions, *rest)

    monkeypatch.setattr(transformer, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        write_text("frozen", images, Path("again"), params, MACHINE)
    [damaged] = Path("scratch").glob("again/*/train-000001.npy")
    damaged.write_bytes(damaged.read_bytes()[:-40])
    monkeypatch.setattr(
        transformer, "write_shard", lambda shard, *rest: (written.append(shard.name), write(shard, *rest))
    )
    write_text("frozen", images, Path("again"), params, MACHINE)
    assert written == [2, 2, 2, "train-000001", "train-000002", "val-000000", "val-000001"]
    configs = [json.loads((Path(name) / "config.json").read_text())["files"] for name in ("whole", "again")]
    assert configs[0] == configs[1] and len([name for name in configs[0] if name.startswith("train-")]) == 6


def test_features_that_a_precision_cannot_hold_are_refused():
    with pytest.raises(UserError, match="text.t5.precision = 'fp16': features reach 1e.05, beyond what it holds"):
        transformer.stored(torch.tensor([1e5]), {"name": "t5", "precision": "fp16"})


def test_a_folder_without_a_model_or_with_a_broken_one_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match="expected a local folder with config.json"):
        Transformer(kind="transformer", folder="t5-small", max_length=8, precision="fp16", shard_captions=4)
    params = tiny(tmp_path / "t5", "t5")
    (tmp_path / "t5/config.json").write_text('{"model_type": "of nobody"}')
    with pytest.raises(UserError, match="text.frozen.folder: .*of nobody"):
        write_text("frozen", images, Path("text"), params, MACHINE)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match="text.t5.folder: kind transformer needs the package transformers"):
        transformer.open_model(tmp_path, "text.t5.folder")
