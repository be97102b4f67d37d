"""The data stage on a folder of good, odd and broken files. Run: pytest tests/test_folder.py"""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.errors import UserError
from stages.core.params import Machine
from stages.data.decode import decode_rgb, to_square
from stages.data.folder import open_folder, split_of
from stages.data.prepare import Params, prepare
from stages.data.reader import ImageSplit, image_facts
from stages.data.scenes import Scenes
from stages.data.sidecars import convert_boxes

PX = 16
SCENES = Scenes(count=20, max_objects=1, nuisance=0.0)
MACHINE = Machine(device="cpu", num_workers=2, infer_batch_size=8, checkpoint_secs=60.0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def params(folder: Path, **changes) -> Params:
    fields = dict(
        source="folder",
        folder=str(folder),
        scenes=SCENES,
        img_px=PX,
        val_fraction=0.5,
        shard_images=4,
        format="png",
        seed=0,
    )
    return Params(**(fields | changes))


def make(folder: Path, **changes) -> Path:
    prepare(Path("images"), params(folder, **changes), MACHINE)
    return Path("images")


def halves(first="red", second="blue", size=(40, 20), mode="RGB") -> Image.Image:
    """The left half in one colour, the right half in another."""
    image = Image.new(mode, size, first)
    image.paste(Image.new(mode, (size[0] // 2, size[1]), second), (size[0] // 2, 0))
    return image


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or halves()).save(path, **options)
    return path


def good_images(folder: Path, count: int = 8) -> None:
    for number in range(count):
        save(folder / f"{number}.png")


def by_name(folder: Path) -> dict[str, dict[str, bytes]]:
    """{name in the source: {field: bytes}} of all shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                key, field = info.name.split(".", 1)
                samples.setdefault(key, {})[field] = tar.extractfile(info).read()
    return {json.loads(fields["json"])["name"]: fields for fields in samples.values()}


def pixels(fields: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(fields["png"]))).astype(int)


def fill_with_oddities(folder: Path) -> None:
    good_images(folder / "plain")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    save(folder / "odd/rotated.jpg", exif=exif)
    save(folder / "odd/cmyk.jpg", halves().convert("CMYK"))
    save(folder / "odd/deep/grey16.png", Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)))
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
    (folder / "odd/gone.png").symlink_to("nowhere.png")
    (folder / "odd/loop").symlink_to(folder)
    os.mkfifo(folder / "odd/pipe.png")
    save(folder / "odd/bomb.png", Image.new("1", (10_000, 10_000)))
    save(folder / "odd/bomb2.png", Image.new("1", (20_000, 10_000)))
    save(folder / "odd/float.tif", Image.new("F", (4, 4), 0.5))


NOT_AN_IMAGE = "not an image file (JPEG, PNG, GIF, BMP, PPM, TIFF, WEBP)"
REFUSED = {
    "odd/bomb.png": "decompression bomb: Image size (100000000 pixels) exceeds limit of 89478485 pixels",
    "odd/bomb2.png": "decompression bomb: Image size (200000000 pixels) exceeds limit of 178956970 pixels",
    "odd/float.tif": "floating-point pixels: the value of white is unknown",
    "odd/gone.png": "unreadable: No such file or directory",
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
        yield folder / make(folder / "photos")


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
    good = "animated.gif banner.webp cmyk.jpg deep/grey16.png one.png palette.png rotated.jpg whole.jpg"
    assert odd == {f"odd/{name}" for name in good.split()}
    assert len(samples) == 16 == sum(facts["splits"][split]["images"] for split in ("train", "val"))
    assert all(fields["cls"] == (b"0" if name in odd else b"1") for name, fields in samples.items())
    assert all(pixels(fields).shape == (PX, PX, 3) for fields in samples.values())


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("odd/deep/grey16.png", (128, 128, 128)),
        ("odd/palette.png", (255, 255, 255)),
        ("odd/animated.gif", (0, 255, 0)),
        ("odd/one.png", (255, 0, 0)),
    ],
)
def test_every_kind_of_file_becomes_the_rgb_that_a_viewer_shows(oddities, name, colour):
    assert (pixels(by_name(oddities)[name]) == colour).all()


def test_exif_orientation_is_applied(oddities):
    rotated = pixels(by_name(oddities)["odd/rotated.jpg"])
    assert (np.abs(rotated[0] - (255, 0, 0)) < 20).all() and (np.abs(rotated[-1] - (0, 0, 255)) < 20).all()


def test_cmyk_keeps_its_colours(oddities):
    cmyk = pixels(by_name(oddities)["odd/cmyk.jpg"])
    assert (np.abs(cmyk[:, 0] - (255, 0, 0)) < 20).all() and (np.abs(cmyk[:, -1] - (0, 0, 255)) < 20).all()


def test_console_shows_twenty_refused_files_and_the_count(photos, capsys):
    good_images(photos / "a")
    for number in range(25):
        (photos / f"a/empty{number:02d}.png").touch()
    make(photos)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("images, 1 classes, 25 files refused")
    assert len(lines) == 23 and lines[2] == "  refused a/empty00.png: empty file"
    assert lines[-1] == "  ... and 5 more, listed in images/config.json"


@pytest.mark.parametrize("broken", [0, 3])
def test_folder_without_good_images_is_a_clear_error(photos, broken):
    for number in range(broken):
        (photos / f"{number}.png").touch()
    with pytest.raises(UserError, match=f"0 good images for train and 0 for val.*{broken} files refused"):
        make(photos)
    assert not Path("images").exists()


def test_split_without_good_images_is_a_clear_error(photos):
    good_images(photos)
    with pytest.raises(UserError, match="8 good images for train and 0 for val"):
        make(photos, val_fraction=1e-6)


def test_flat_folder_has_no_classes(photos):
    good_images(photos)
    images = make(photos)
    assert image_facts(images)["classes"] == []
    assert image_facts(images)["splits"]["train"]["per_class"] == {}
    assert set(ImageSplit(images, "train").labels) == set(ImageSplit(images, "val").labels) == {-1}


def test_flat_and_classes_mixed_is_an_error_that_says_so(photos):
    good_images(photos / "cats")
    save(photos / "loose.png")
    with pytest.raises(UserError, match=r"with a class \('cats/0.png'\) and without \('loose.png'\)"):
        make(photos)


def test_readme_beside_class_folders_is_refused_but_no_mixture(photos):
    good_images(photos / "cats")
    (photos / "README.md").write_text("about")
    assert image_facts(make(photos))["refused"] == [{"name": "README.md", "reason": "unsupported extension '.md'"}]


def test_files_keep_their_split_when_others_come(photos):
    def splits() -> dict[str, str]:
        source = open_folder(photos, PX, 0.3, 0)
        return {candidate.name: split for split, candidates in source.splits.items() for candidate in candidates}

    good_images(photos / "a", 30)
    before = splits()
    save(photos / "a/00.png")
    save(photos / "0/new.png")
    assert before.items() < splits().items() and set(before.values()) == {"train", "val"}


def test_val_gets_its_fraction():
    val = sum(split_of(f"class/{number}.jpg", 0.1, 0) == "val" for number in range(5000))
    assert 420 < val < 580


def test_changed_file_never_resumes_foreign_shards(photos):
    good_images(photos)
    before = open_folder(photos, PX, 0.5, 0).facts
    assert open_folder(photos, PX, 0.5, 0).facts == before
    os.utime(photos / "0.png", ns=(0, 0))
    assert open_folder(photos, PX, 0.5, 0).facts != before


def test_result_depends_on_contents_not_on_place_time_or_workers(photos, tmp_path):
    good_images(photos / "a")
    first = {path.name: path.read_bytes() for path in make(photos).iterdir()}
    photos = photos.rename(tmp_path / "elsewhere")
    os.utime(photos / "a/0.png", ns=(0, 0))
    prepare(Path("again"), params(photos), MACHINE.model_copy(update={"num_workers": 0}))
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == first


def test_sidecars_follow_their_image(photos):
    good_images(photos / "a")
    (photos / "a/0.txt").write_text("ein Café")
    (photos / "a/0.boxes.json").write_text("[[10, 0, 20, 20], [0, 0, 5, 5], [5, 5, 40, 10]]")
    save(photos / "a/0.mask.png", halves(1, 2, mode="L"))
    images = make(photos)
    fields = by_name(images)["a/0.png"]
    assert fields["txt"].decode() == "ein Café"
    assert json.loads(fields["boxes.json"]) == [[0, 0, 8, 16], [0, 4, 16, 8]]
    mask = np.asarray(Image.open(io.BytesIO(fields["mask.png"])))
    assert (mask[:, :8] == 1).all() and (mask[:, 8:] == 2).all() and mask.shape == (PX, PX)
    assert image_facts(images)["refused"] == [] and "txt" not in by_name(images)["a/1.png"]
    assert len(ImageSplit(images, "train")) + len(ImageSplit(images, "val")) == 8


@pytest.mark.parametrize(
    ("sidecar", "content", "reason"),
    [
        ("txt", b"caf\xe9", "can't decode byte 0xe9"),
        ("boxes.json", b"[[1, 2, 3]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
        ("boxes.json", b"[[1, 2, 3, NaN]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
        ("boxes.json", b"[[1, 2, 3, 1" + b"0" * 400 + b"]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
        ("boxes.json", b"[" * 100_000, "recursion"),
        ("boxes.json", b"{", "Expecting property name"),
        ("mask.png", b"text", "not an image file"),
    ],
)
def test_wrong_sidecar_refuses_its_image_with_the_reason(photos, sidecar, content, reason):
    good_images(photos)
    (photos / f"0.{sidecar}").write_bytes(content)
    (item,) = image_facts(make(photos))["refused"]
    assert item["name"] == "0.png"
    with pytest.raises(AssertionError, match=rf"its sidecar 0.{sidecar}: .*{reason}"):
        raise AssertionError(item["reason"])


def test_boxes_are_scaled_clipped_and_dropped():
    boxes = json.dumps([[0, 0, 100, 200], [0, 0, 100, 10], [25.5, 75, 50, 100]]).encode()
    assert json.loads(convert_boxes(boxes, (100, 200), 10)) == [[0, 0, 10, 10], [2.55, 2.5, 5, 5]]


def test_one_step_crop_equals_resizing_the_shorter_side_and_cropping():
    image = Image.effect_noise((96, 64), 80).convert("RGB")
    usual = image.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    difference = np.asarray(to_square(image, 32)).astype(int) - np.asarray(usual)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_of_a_white_image_stays_white(mode):
    white = {"I;16": 65535, "I": 65535}.get(mode)
    image = Image.new(mode, (4, 4), white) if white else Image.new("L", (4, 4), 255).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, "tiff")
    assert (np.asarray(decode_rgb(file.getvalue())) == 255).all()


def test_metadata_of_the_source_does_not_reach_the_shards(photos):
    good_images(photos)
    save(photos / "0.jpg", comment=b"secret", icc_profile=b"profile", dpi=(72, 72))
    for image_format in ("png", "jpg"):
        fields = by_name(make(photos, format=image_format))["0.jpg"]
        assert b"secret" not in fields[image_format] and b"profile" not in fields[image_format]
