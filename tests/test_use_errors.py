"""A wrong value of `semtok encode` and the others is one line and status 2, before any network is loaded.

Run: uv run pytest tests/test_use_errors.py
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import untrained
from PIL import Image

from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError
from stages.use import codes_file, command


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data/, pictures, masks and files of codes. Read only."""
    root = tmp_path_factory.mktemp("use_errors")
    untrained.write_data(root / "data")
    untrained.write_pictures(root / "pictures")
    Image.new("L", (20, 24), 255).save(root / "mask.png")
    Image.new("L", (24, 24), 255).save(root / "large.png")
    (root / "full").mkdir()
    (root / "full/file").touch()
    (root / "broken").mkdir()
    (root / "broken/broken.png").write_bytes(b"no image")
    codes = np.zeros((2, untrained.GRID**2), np.uint16)
    other = {"tokenizer": {"name": "vqgan", "digest": "0" * 64}}
    np.savez(root / "own.npz", codes=codes)
    np.savez(root / "floats.npz", codes=codes / 2)
    np.savez(root / "short.npz", codes=codes, names=["a.png"])
    np.savez(root / "twice.npz", codes=codes, names=["a.png", "a.png"])
    np.savez(root / "outside.npz", codes=codes, names=["a.png", "../b.png"])
    np.savez(root / "other.npz", codes=codes, config=json.dumps(other))
    np.savez(root / "nothing.npz", labels=codes)
    return root


@pytest.fixture(autouse=True)
def here(made, workdir):
    """The current folder, with links to what was made."""
    for path in made.iterdir():
        os.symlink(path, workdir / path.name)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    """Loading a network fails."""
    of = {"encode": "tokenizer", "decode": "decoder", "reconstruct": "tokenizer", "drawing": "generator"}
    for module, what in of.items():
        monkeypatch.setattr(f"stages.use.{module}.load_{what}", lambda *given: pytest.fail("a network is loaded"))


PICTURE, AR, MASKED = "pictures/plain.png", "--generator kmeans-ar", "--generator kmeans-masked"
WRONG = [
    ("encode missing --out a.npz", "missing: no such file or folder"),
    ("encode full --out a.npz", "full: no image files here"),
    (f"encode {PICTURE} --tokenizer kmean --out a.npz", "kmean: no such artifact.*kmeans"),
    (f"encode {PICTURE} --tokenizer data/decoder/kmeans-onestep --out a.npz", "holds a 'decoder' artifact"),
    (f"encode {PICTURE} --out a.npy", "--out a.npy: expected .npz"),
    (f"encode {PICTURE} --out own.npz", "--out own.npz: is there already"),
    (f"encode {PICTURE} --out no/a.npz", "--out no/a.npz: there is no folder no"),
    (f"encode {PICTURE} --out a.npz --device cuda:9", "--device cuda:9: this machine has 0 usable GPUs"),
    (f"encode {PICTURE} --out a.npz --device tpu", "--device tpu: expected auto, cpu, cuda"),
    ("decode none.npz --out d", "none.npz: no such file"),
    ("decode mask.png --out d", "mask.png: no codes that can be read"),
    ("decode nothing.npz --out d", "nothing.npz: no codes that can be read"),
    ("decode floats.npz --out d", "expected integers"),
    ("decode short.npz --out d", "1 names for 2 images"),
    ("decode twice.npz --out d", "a name stands there twice"),
    ("decode outside.npz --out d", "'../b.png': expected a path below"),
    ("decode own.npz --out d", "does not say which tokenizer made it: expected --decoder"),
    (
        "decode other.npz --out d",
        "none of .*onestep, .*other decodes the codes of this tokenizer vqgan",
    ),
    ("decode own.npz --out full", "--out full: is there already"),
    (f"reconstruct {PICTURE} --out grid.bmp", "--out grid.bmp: expected .png or .jpg or .webp"),
    (f"reconstruct {PICTURE} --out a.png --decoder nope", "nope: no such artifact.*kmeans-onestep, kmeans-other"),
    ("sample --out a.png", "--generator: missing; there is kmeans-ar, kmeans-masked, kmeans-parallel_ar"),
    (f"sample {AR} --classes four --out a.png", "class 'four': unknown; there is one, two, three, or none"),
    (f"sample {AR} --classes 3 --out a.png", "class '3': unknown"),
    (f"sample {AR} --caption dog --out a.png", "--caption: ar draws by class: expected --classes"),
    (f"sample {AR} --n 0 --out a.png", "--n 0: expected 1 or more"),
    (f"sample {AR} --n 100 --out a.png", "--n 100: 3 x 100 images: a picture shows at most 256"),
    (f"sample {AR} --seed -1 --out a.png", "--seed -1: expected 0 or more"),
    (f"sample {AR} --set temperature --out a.png", "--set temperature: expected NAME=VALUE"),
    (f"sample {AR} --set temprature=1 --out a.png", "temprature.*did you mean temperature"),
    (f"sample {AR} --set temperature=-1 --out a.png", "temperature = -1"),
    (f"sample {AR} --animate --out folder", "--animate: writes a .webp beside the picture"),
    (f"sample {AR} --decoder kmeans --out a.png", "kmeans: no such artifact"),
    (f"inpaint {PICTURE} --mask large.png {MASKED}", "--mask large.png: 24 x 24 pixels: expected 20 x 24"),
    (f"inpaint {PICTURE} --mask none.png {MASKED}", "none.png: unreadable: No such file"),
    (f"inpaint broken/broken.png --mask mask.png {MASKED}", "broken.png: not an image file"),
    (f"vary {PICTURE} {MASKED} --strength 0", "--strength 0.0: expected a share"),
    (f"vary {PICTURE} {MASKED} --class nine", "class 'nine': unknown"),
    (f"vary {PICTURE} {MASKED} --class one,two", "--class one,two: expected one class"),
    (f"vary {PICTURE} {MASKED} --n 65", "--n 65: expected at most 64"),
]


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_value_is_one_line_that_names_it(line, said, capsys):
    before = sorted(os.listdir())
    assert command.main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and re.search(said, printed.err), printed.err
    assert sorted(os.listdir()) == before


def test_no_good_file_is_an_error_and_leaves_nothing(capsys, monkeypatch):
    monkeypatch.setattr("stages.use.encode.load_tokenizer", load_tokenizer)
    before = sorted(os.listdir())
    assert command.main("encode broken --out a.npz".split()) == 2
    assert "none of 1 files could be read; broken.png: not an image file" in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_a_file_of_codes_that_is_cut_off_while_it_is_written_leaves_nothing():
    before = sorted(os.listdir())
    with pytest.raises(KeyboardInterrupt), codes_file.new_codes(Path("a.npz"), 4, "uint16") as file:
        file.add(["a.png"], np.zeros((1, 4), np.int64))
        raise KeyboardInterrupt
    assert sorted(os.listdir()) == before


def test_codes_are_read_in_batches_as_numpy_reads_them(monkeypatch):
    monkeypatch.setattr(codes_file, "ROWS", 2)
    codes = np.random.default_rng(0).integers(0, 70_000, (5, 3))
    with codes_file.new_codes(Path("a.npz"), 3, "uint32") as file:
        for start in (0, 3):
            file.add([f"{number}.png" for number in range(start, min(5, start + 3))], codes[start : start + 3])
        file.config = {"tokenizer": {"name": "kmeans"}}
    with np.load("a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["codes"], codes) and arrays["codes"].dtype == np.uint32
    opened = codes_file.open_codes(Path("a.npz"))
    parts = [*opened.batches()]
    assert [len(names) for names, _ in parts] == [2, 2, 1] and opened.config == {"tokenizer": {"name": "kmeans"}}
    assert np.array_equal(np.concatenate([part for _, part in parts]), codes)


def test_files_of_one_name_but_for_the_ending_keep_theirs():
    np.savez("codes.npz", codes=np.zeros((3, 4), np.uint16), names=["a.jpg", "b/a.jpg", "a.png"])
    opened = codes_file.open_codes(Path("codes.npz"))
    assert command.door.png_names(opened) == ["a.jpg.png", "b/a.png", "a.png.png"]
    np.savez("codes.npz", codes=np.zeros((3, 4), np.uint16), names=["a.jpg", "a.png", "a.jpg.gif"])
    with pytest.raises(UserError, match="twice"):
        command.door.png_names(codes_file.open_codes(Path("codes.npz")))


def test_a_generator_of_captions_asks_for_captions():
    config = {"name": "words", "text_encoder": "small", "classes": ["one"]}
    assert command.door.conditions(config, {"classes": None, "caption": ["a star"]}) == (["a star"], True)
    for given in ({"classes": "one", "caption": None}, {"classes": None, "caption": None}):
        with pytest.raises(UserError, match="words draws by caption: expected --caption TEXT"):
            command.door.conditions(config, given)
