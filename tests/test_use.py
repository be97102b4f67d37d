"""`semtok encode`, `decode`, `reconstruct`, `sample`, `inpaint`, `vary` against the Python API, on files of many kinds.

Run: uv run pytest tests/test_use.py
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import untrained
from PIL import Image, ImageDraw

import semtok
from pipeline import cli
from stages.core.metrics import psnr
from stages.data.squares import Square
from stages.use import command, reading
from stages.use.animation import drawn_steps
from stages.use.files import list_images

PX = untrained.PX
GOOD = ["deep/er/moving.gif", "deep/transparent.png", "deep/turned.jpg", "palette.png", "plain.png", "print.jpg",
        "sixteen.png"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data/ and pictures/. Read only: tests work in a folder that links to both."""
    root = tmp_path_factory.mktemp("use")
    untrained.write_data(root / "data")
    untrained.write_pictures(root / "pictures")
    return root


@pytest.fixture(autouse=True)
def here(made, workdir):
    """The current folder, with links to what was made."""
    for name in ("data", "pictures"):
        os.symlink(made / name, workdir / name)
    return workdir


def run(capsys, *arguments: str) -> dict:
    """What a command prints with --json."""
    assert command.main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_encode_then_decode_through_files_equals_the_api(capsys, monkeypatch):
    monkeypatch.setattr(reading, "GROUP", 2)
    facts = run(capsys, "encode", "pictures", "--tokenizer", "kmeans", "--out", "codes.npz")
    tokenizer = semtok.load_tokenizer("data/codebook/kmeans")
    expected = tokenizer.encode([f"pictures/{name}" for name in GOOD])
    with np.load("codes.npz") as file:
        assert sorted(file["names"]) == GOOD and file["codes"].dtype == np.uint16
        order = np.argsort(file["names"])
        assert np.array_equal(file["codes"][order], expected)
        config = json.loads(str(file["config"]))
    assert config["images"] == {"img_px": PX, "crop": "center", "background": "#ffffff"}
    refused = {item["name"]: item["reason"] for item in facts["refused"]}
    assert facts["images"] == 7 and config["refused"] == facts["refused"]
    assert refused.keys() == {"broken.png", "cut.png", "notes.pdf"} and "not an image" in refused["broken.png"]

    facts = run(capsys, "decode", "codes.npz", "--decoder", "kmeans-onestep", "--out", "decoded")
    images = semtok.load_decoder("data/decoder/kmeans-onestep").decode(expected)
    for name, image in zip(GOOD, images, strict=True):
        written = f"decoded/{name.rpartition('.')[0]}.png"
        assert np.array_equal(np.asarray(Image.open(written)), image), name
    assert facts["images"] == 7 and not [name for name in os.listdir() if name.startswith(".")]


def test_batches_of_the_network_are_full_whatever_is_refused(monkeypatch):
    monkeypatch.setattr(reading, "GROUP", 2)
    monkeypatch.setattr(reading, "BATCH", 3)
    found = list_images([Path("pictures")])
    batches = [*reading.read_batches(found, Square(PX, "center", "#ffffff"))]
    assert [len(names) for names, _ in batches] == [len(images) for _, images in batches] == [3, 3, 1]
    assert len(found.refused) == 3


def test_names_are_relative_to_the_deepest_folder_of_all_inputs_and_a_decoder_is_chosen(capsys, here):
    shutil.copyfile("pictures/plain.png", "loose.jpg")  # the content counts
    run(capsys, "encode", "loose.jpg", "pictures/deep", "pictures/deep/turned.jpg", "--out", "codes.npz")
    with np.load("codes.npz") as file:
        names = file["names"].tolist()
    assert names[0] == "loose.jpg" and len(names) == 4 and "pictures/deep/turned.jpg" in names
    assert command.main(["decode", "codes.npz", "--out", "decoded"]) == 0
    assert "the first of data/decoder/kmeans-onestep, data/decoder/kmeans-other" in capsys.readouterr().err
    assert (here / "decoded/pictures/deep/er/moving.png").is_file()


def test_equal_inputs_give_equal_bytes_and_a_path_works_in_any_folder(capsys, made, tmp_path, monkeypatch):
    run(capsys, "encode", "pictures", "--out", "a.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(capsys, "encode", "../pictures", "--tokenizer", f"{made}/data/codebook/kmeans", "--out", "../b.npz")
    monkeypatch.chdir(tmp_path)
    with open("a.npz", "rb") as one, open("b.npz", "rb") as other:
        assert one.read() == other.read()


def test_reconstruct_shows_every_pair_and_measures_its_psnr(capsys):
    facts = run(capsys, "reconstruct", "pictures/plain.png", "pictures/deep", "--out", "grid.png")
    original = semtok.load_tokenizer("data/codebook/kmeans").prepare("pictures/plain.png")
    codes = semtok.load_tokenizer("data/codebook/kmeans").encode(original)
    for name in ("kmeans-onestep", "kmeans-other"):
        decoded = semtok.load_decoder(f"data/decoder/{name}").decode(codes)
        assert facts["psnr_db"][name][0] == pytest.approx(psnr(original, decoded)[0], abs=1e-3)
    with Image.open("grid.png") as picture:
        assert picture.width > 6 * 72
    facts = run(capsys, "reconstruct", "pictures/plain.png", "--decoder", "kmeans-other", "--out", "one.webp")
    assert [*facts["psnr_db"]] == ["kmeans-other"]


def test_samples_are_those_of_the_api_in_a_folder_or_in_a_picture(capsys):
    generator = ["sample", "--generator", "kmeans-ar", "--decoder", "kmeans-other", "--seed", "3"]
    asked = [*generator, "--classes", "three, 0,none", "--n", "2", "--set", "temperature=0.5"]
    facts = run(capsys, *asked, "--out", "drawn")
    api = semtok.load_generator("data/generator/kmeans-ar", decoder="data/decoder/kmeans-other")
    sample = api.sample(["three"] * 2 + ["one"] * 2 + [None] * 2, seed=3, temperature=0.5)
    assert facts["codes"] == sample.codes.tolist() and facts["sampling"]["temperature"] == 0.5
    names = sorted(os.listdir("drawn"))
    assert names[0] == "000000-three.png" and names[5] == "000005-no-class.png"
    assert all(np.array_equal(Image.open(f"drawn/{n}"), image) for n, image in zip(names, sample.images, strict=True))


@pytest.mark.parametrize("kind", ["ar", "masked", "parallel_ar"])
def test_an_animation_begins_gray_only_adds_codes_and_ends_with_the_picture(kind, capsys):
    asked = ["sample", "--generator", f"kmeans-{kind}", "--decoder", "kmeans-onestep", "--classes", "one", "--n", "2"]
    facts = run(capsys, *asked, "--animate", "--out", "grid.png")
    with Image.open("grid.webp") as film, Image.open("grid.png") as picture:
        film.seek(film.n_frames - 1)
        assert np.array_equal(np.asarray(film.convert("RGB")), np.asarray(picture))
        film.seek(0)
        assert np.all(np.asarray(film.convert("RGB"))[film.height // 2, film.width // 3] == 128)
    api = semtok.load_generator(f"data/generator/kmeans-{kind}", decoder="data/decoder/kmeans-onestep")
    steps = drawn_steps(api, *api.asked((["one"] * 2, None), {}), 0)
    assert len(steps) > 3 and facts["codes"] == steps[-1].tolist() == api.sample(["one"] * 2).codes.tolist()
    counts = [int((codes != untrained.NUM_CODES).sum()) for codes in steps]
    assert counts == sorted(counts) and counts[0] < counts[-1] == steps[-1].size
    assert all(np.all((codes == untrained.NUM_CODES) | (codes == steps[-1])) for codes in steps)


def test_an_exported_generator_needs_no_repository(capsys, made, tmp_path, monkeypatch):
    shutil.copytree(made / "data/generator/kmeans-masked", tmp_path / "mine")
    for part, name in (("codebook", "kmeans"), ("decoder", "kmeans-other")):
        shutil.copytree(made / f"data/{part}/{name}", tmp_path / "mine/beside" / part)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = ["--generator", "../mine", "--n", "1", "--seed", "5"]
    facts = run(capsys, "vary", "../pictures/plain.png", *given, "--out", "varied")
    monkeypatch.chdir(tmp_path)
    api = semtok.load_generator("data/generator/kmeans-masked", decoder="data/decoder/kmeans-other")
    sample = api.vary("pictures/plain.png", 0.25, seed=5)
    assert facts["codes"] == sample.codes.tolist()
    assert np.array_equal(np.asarray(Image.open("elsewhere/varied/000000.png")), sample.images[0])


def test_inpaint_draws_under_a_mask_of_the_image_as_a_viewer_shows_it(capsys):
    with Image.open("pictures/deep/turned.jpg") as image:
        size = image.size[::-1]
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, size[0], size[1] // 2), fill=255)
    mask.save("mask.png")
    draw = ["--generator", "kmeans-masked", "--decoder", "kmeans-onestep", "--n", "3", "--class", "two"]
    edit = ["inpaint", "pictures/deep/turned.jpg", "--mask", "mask.png", *draw, "--keep", "--out", "kept"]
    facts = run(capsys, *edit)
    api = semtok.load_generator("data/generator/kmeans-masked", decoder="data/decoder/kmeans-onestep")
    sample = api.inpaint(["pictures/deep/turned.jpg"] * 3, "mask.png", classes=["two"] * 3)
    assert facts["codes"] == sample.codes.tolist()
    kept, original = np.asarray(Image.open("kept/000001.png")), api.tokenizer.prepare("pictures/deep/turned.jpg")[0]
    assert np.array_equal(kept[:6], sample.images[1][:6]) and np.array_equal(kept[-6:], original[-6:])


def test_vary_writes_beside_the_user_by_default(capsys):
    draw = ["--generator", "kmeans-masked", "--decoder", "kmeans-onestep"]
    facts = run(capsys, "vary", "pictures/plain.png", *draw, "--strength", "0.5", "--seed", "1")
    api = semtok.load_generator("data/generator/kmeans-masked", decoder="data/decoder/kmeans-onestep")
    assert facts["codes"] == api.vary(["pictures/plain.png"] * 4, 0.5, seed=1).codes.tolist()
    assert facts["out"] == "plain-vary.png" and os.path.isfile("plain-vary.png")


def test_semtok_becomes_the_command_in_the_users_folder(monkeypatch):
    called = []

    def execv(program: str, arguments: list[str]) -> None:
        called.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["semtok", "encode", "a.png", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert called[0][-5:] == ["-m", "stages.use", "encode", "a.png", "--help"]
    assert cli.USE.keys() == command.door.CHECKS.keys()
