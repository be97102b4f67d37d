"""Odd and broken files of a folder: which are refused and why, and which pixels the others become.

Run: uv run pytest tests/test_decode.py
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from photos import MACHINE, PX, by_name, good_images, halves, params, save
from PIL import Image

from stages.data.decode import decode_rgb, to_square
from stages.data.reader import image_facts
from stages.data.writer import write_images


def pixels(fields: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(fields["png"]))).astype(int)


def fill_with_oddities(folder: Path) -> None:
    good_images(folder / "plain")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    save(folder / "odd/rotated.jpg", exif=exif)
    save(folder / "odd/cmyk.jpg", halves().convert("CMYK"))
    save(folder / "odd/deep/gray16.png", Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)))
    clear = Image.new("RGBA", (20, 20), (0, 0, 255, 0))
    save(folder / "odd/palette.png", clear.quantize(4))
    save(folder / "odd/animated.gif", halves("lime", "lime"), save_all=True, append_images=[halves("red", "red")])
    save(folder / "odd/one.png", Image.new("RGB", (1, 1), "red"))
    save(folder / "odd/banner.webp", halves(size=(3000, 2)), lossless=True)
    save(folder / "odd/.hidden.png")
    save(folder / ".thumbnails/small.png")

    whole = save(folder / "odd/whole.jpg", Image.effect_noise((64, 64), 50)).read_bytes()
    (folder / "odd/truncated.JPG").write_bytes(whole[: len(whole) // 2])
    (folder / "odd/zero.png").touch()
    (folder / "odd/text.png").write_text("I am text")
    (folder / "odd/notes.pdf").write_text("%PDF")
    (folder / "odd/orphan.txt").write_text("a caption of nothing")
    (folder / "odd/postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "odd/loop").symlink_to(folder)
    save(folder / "odd/bomb.png", Image.new("1", (10_000, 10_000)))
    save(folder / "odd/bomb2.png", Image.new("1", (20_000, 10_000)))
    save(folder / "odd/float.tif", Image.new("F", (4, 4), 0.5))


NOT_AN_IMAGE = "not an image file (JPEG, PNG, GIF, BMP, PPM, TIFF, WEBP)"
BOMB = "decompression bomb: Image size"
REFUSED = {
    "odd/bomb.png": f"{BOMB} (100000000 pixels) exceeds limit of 89478485 pixels; store it smaller",
    "odd/bomb2.png": f"{BOMB} (200000000 pixels) exceeds limit of 178956970 pixels; store it smaller",
    "odd/float.tif": "floating-point pixels: the value of white is unknown",
    "odd/gone.png": "unreadable: No such file or directory",
    "odd/loop": "a link that leads back to a folder around it",
    "odd/notes.pdf": "unsupported extension '.pdf'",
    "odd/orphan.txt": "unsupported extension '.txt'",
    "odd/pipe.png": "not a regular file",
    "odd/postscript.png": NOT_AN_IMAGE,
    "odd/text.png": NOT_AN_IMAGE,
    "odd/truncated.JPG": "broken image: image file is truncated",
    "odd/zero.png": "empty file",
}


@pytest.fixture(scope="module")
def oddities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oddities")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fill_with_oddities(folder / "photos")
        checked = params(folder / "photos")
        (folder / "photos/odd/gone.png").symlink_to("nowhere.png")  # refused by `params`, and what comes after it?
        os.mkfifo(folder / "photos/odd/pipe.png")
        write_images(Path("images"), checked, MACHINE)
        yield folder / "images"


def test_refused_list_is_exact(oddities):
    refused = {item["name"]: item["reason"].split(" (")[0] for item in image_facts(oddities)["refused"]}
    assert list(refused) == sorted(REFUSED)
    assert refused == {name: reason.split(" (")[0] for name, reason in REFUSED.items()}


def test_refused_reasons_hold_no_address_and_bombs_say_their_size(oddities):
    reasons = {item["name"]: item["reason"] for item in image_facts(oddities)["refused"]}
    assert reasons["odd/text.png"] == NOT_AN_IMAGE
    assert {name: reasons[name] for name in ("odd/bomb.png", "odd/bomb2.png")} == {
        name: REFUSED[name].replace(" pixels of", "") for name in ("odd/bomb.png", "odd/bomb2.png")
    }


def test_good_images_are_all_there_with_their_classes(oddities):
    facts, samples = image_facts(oddities), by_name(oddities)
    assert facts["classes"] == ["odd", "plain"]
    odd = {name for name in samples if name.startswith("odd/")}
    good = "animated.gif banner.webp cmyk.jpg deep/gray16.png one.png palette.png rotated.jpg whole.jpg"
    assert odd == {f"odd/{name}" for name in good.split()}
    assert len(samples) == 16 == sum(facts["splits"][split]["images"] for split in ("train", "val"))
    assert all(fields["cls"] == (b"0" if name in odd else b"1") for name, fields in samples.items())
    assert all(pixels(fields).shape == (PX, PX, 3) for fields in samples.values())


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("odd/deep/gray16.png", (128, 128, 128)),
        ("odd/palette.png", (255, 255, 255)),
        ("odd/animated.gif", (0, 255, 0)),
        ("odd/one.png", (255, 0, 0)),
    ],
)
def test_every_kind_of_file_becomes_the_rgb_that_a_viewer_shows(oddities, name, color):
    assert (pixels(by_name(oddities)[name]) == color).all()


def test_exif_orientation_is_applied(oddities):
    rotated = pixels(by_name(oddities)["odd/rotated.jpg"])
    assert (np.abs(rotated[0] - (255, 0, 0)) < 20).all() and (np.abs(rotated[-1] - (0, 0, 255)) < 20).all()


def test_cmyk_keeps_its_colors(oddities):
    cmyk = pixels(by_name(oddities)["odd/cmyk.jpg"])
    assert (np.abs(cmyk[:, 0] - (255, 0, 0)) < 20).all() and (np.abs(cmyk[:, -1] - (0, 0, 255)) < 20).all()


def test_one_step_crop_equals_resizing_the_shorter_side_and_cropping():
    image = Image.effect_noise((96, 64), 80).convert("RGB")
    usual = image.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    difference = np.asarray(to_square(image, 32, "center", "white")).astype(int) - np.asarray(usual)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_of_a_white_image_stays_white(mode):
    white = {"I;16": 65535, "I": 65535}.get(mode)
    image = Image.new(mode, (4, 4), white) if white else Image.new("L", (4, 4), 255).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, "tiff")
    assert (np.asarray(decode_rgb(file.getvalue())[0]) == 255).all()


def test_pad_shows_the_whole_image_on_the_background_and_resize_stretches_it():
    image = halves(size=(40, 20))
    padded = np.asarray(to_square(image, 16, "pad", "lime")).astype(int)
    assert (padded[[0, 3, 12, 15]] == (0, 255, 0)).all()
    assert (padded[4:12, :6] == (255, 0, 0)).all() and (padded[4:12, 10:] == (0, 0, 255)).all()
    stretched = np.asarray(to_square(image, 16, "resize", "lime")).astype(int)
    assert (stretched[:, :6] == (255, 0, 0)).all() and (stretched[:, 10:] == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 2), (7, 7)])
@pytest.mark.parametrize("crop", ["center", "pad", "resize"])
def test_every_shape_fills_its_square(size, crop):
    assert to_square(halves(size=size), 16, crop, "white").size == (16, 16)


def test_transparency_lies_over_the_chosen_color():
    file = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(file, "png")
    assert (np.asarray(decode_rgb(file.getvalue(), "navy")[0]) == (0, 0, 128)).all()


@pytest.mark.parametrize("turned", [False, True])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(turned):
    rng, file, exif = np.random.default_rng(0), io.BytesIO(), Image.Exif()
    smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((1600, 1200))
    exif[0x0112] = 6 if turned else 1
    smooth.save(file, "jpeg", quality=95, exif=exif)
    (whole, size), (small, same) = decode_rgb(file.getvalue()), decode_rgb(file.getvalue(), least_px=128)
    assert size == same == whole.size == ((1200, 1600) if turned else (1600, 1200))
    assert small.size == tuple(side // 8 for side in size)
    one, other = (np.asarray(to_square(image, 128, "center", "white")).astype(float) for image in (whole, small))
    assert np.sqrt(((one - other) ** 2).mean()) < 1.5
