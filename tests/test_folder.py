"""The data stage on a folder: refusals, classes, splits, sidecars. Run: pytest tests/test_folder.py"""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from photos import MACHINE, PX, by_name, good_images, halves, make, params, save
from PIL import Image

from stages.core import UserError
from stages.data.folder import open_folder, split_of
from stages.data.reader import ImageSplit, image_facts
from stages.data.sidecars import convert_boxes
from stages.data.writer import write_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


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
        source = open_folder(params(photos, val_fraction=0.3))
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
    before = open_folder(params(photos)).facts
    assert open_folder(params(photos)).facts == before
    os.utime(photos / "0.png", ns=(0, 0))
    assert open_folder(params(photos)).facts != before


def test_result_depends_on_contents_not_on_place_time_or_workers(photos, tmp_path):
    good_images(photos / "a")
    first = {path.name: path.read_bytes() for path in make(photos).iterdir()}
    photos = photos.rename(tmp_path / "elsewhere")
    os.utime(photos / "a/0.png", ns=(0, 0))
    write_images(Path("again"), params(photos), MACHINE.model_copy(update={"num_workers": 0}))
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


WRONG_SIDECARS = [
    ("txt", b"caf\xe9", "line 1: not UTF-8"),
    ("boxes.json", b"[[1, 2, 3]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
    ("boxes.json", b"[[1, 2, 3, NaN]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
    ("boxes.json", b"[[1, 2, 3, 1" + b"0" * 400 + b"]]", r"expected \[\[x0, y0, x1, y1\], ...\]"),
    ("boxes.json", b"[" * 100_000, "recursion"),
    ("boxes.json", b"{", "Expecting property name"),
    ("mask.png", b"text", "not an image file"),
]


def test_wrong_sidecars_refuse_their_images_with_the_reason(photos):
    good_images(photos, 20)
    for number, (sidecar, content, _) in enumerate(WRONG_SIDECARS):
        (photos / f"{number}.{sidecar}").write_bytes(content)
    refused = {item["name"]: item["reason"] for item in image_facts(make(photos))["refused"]}
    assert list(refused) == [f"{number}.png" for number in range(len(WRONG_SIDECARS))]
    for number, (sidecar, _, reason) in enumerate(WRONG_SIDECARS):
        assert re.match(rf"its sidecar {number}.{sidecar}: .*{reason}", refused[f"{number}.png"])


def test_boxes_are_scaled_clipped_and_dropped():
    boxes = json.dumps([[0, 0, 100, 200], [0, 0, 100, 10], [25.5, 75, 50, 100]]).encode()
    assert json.loads(convert_boxes(boxes, (100, 200), 10, "center")) == [[0, 0, 10, 10], [2.55, 2.5, 5, 5]]


def test_metadata_of_the_source_does_not_reach_the_shards(photos):
    good_images(photos)
    save(photos / "0.jpg", comment=b"secret", icc_profile=b"profile", dpi=(72, 72))
    for image_format in ("png", "jpg"):
        fields = by_name(make(photos, format=image_format))["0.jpg"]
        assert b"secret" not in fields[image_format] and b"profile" not in fields[image_format]


def test_boxes_and_masks_follow_the_crop(photos):
    boxes = json.dumps([[0, 0, 100, 200]]).encode()
    assert json.loads(convert_boxes(boxes, (100, 200), 10, "resize")) == [[0, 0, 10, 10]]
    assert json.loads(convert_boxes(boxes, (100, 200), 10, "pad")) == [[2, 0, 7, 10]], "in whole pixels, as the image"
    good_images(photos, 8)  # 40 x 20
    for number in range(8):
        Image.new("L", (40, 20), 7).save(photos / f"{number}.mask.png")
    for crop, rows in (("center", 16), ("pad", 8), ("resize", 16)):
        fields = by_name(make(photos, crop=crop))["0.png"]
        mask = np.asarray(Image.open(io.BytesIO(fields["mask.png"])))
        assert mask.shape == (16, 16) and (mask == 7).all(1).sum() == rows and (mask[0] == 0).all() == (crop == "pad")


def test_a_val_folder_gives_the_val_images_and_classes_are_shared(workdir):
    for name in ("a", "b"):
        good_images(workdir / "train" / name, 5)
        good_images(workdir / "val" / name, 3)
    save(workdir / "val/c/0.png")
    facts = image_facts(make(workdir / "train", val_folder=str(workdir / "val"), val_fraction=0.9))
    assert facts["classes"] == ["a", "b"] and facts["dropped_classes"] == ["c"]
    assert {split: found["per_class"] for split, found in facts["splits"].items()} == {
        "train": {"a": 5, "b": 5},
        "val": {"a": 3, "b": 3},
    }
    assert facts["notes"] == [
        "the images of data.val_folder are val, those of data.folder train; data.val_fraction is not used"
    ]
    assert facts["refused"] == [{"name": "val/c/0.png", "reason": "'c' has no train image"}]


def test_two_flat_folders_have_no_classes_and_a_flat_one_beside_classes_is_refused(workdir):
    good_images(workdir / "train", 5)
    good_images(workdir / "val", 3)
    facts = image_facts(make(workdir / "train", val_folder=str(workdir / "val")))
    assert facts["classes"] == [] and [facts["splits"][name]["images"] for name in ("train", "val")] == [5, 3]
    good_images(workdir / "classes/a", 3)
    with pytest.raises(UserError, match=r"with a class \('val/a/0.png'\) and without \('train/0.png'\)"):
        make(workdir / "train", val_folder=str(workdir / "classes"))


def test_a_val_folder_inside_the_folder_or_beside_splits_is_refused(workdir):
    good_images(workdir / "photos/val", 3)
    with pytest.raises(ValueError, match="lies in folder or around it"):
        make(workdir / "photos", val_folder=str(workdir / "photos/val"))
    for split in ("train", "val"):
        good_images(workdir / "both" / split / "a", 3)
    good_images(workdir / "other/a", 3)
    with pytest.raises(UserError, match="holds train and val, and data.val_folder is"):
        make(workdir / "both", val_folder=str(workdir / "other"))


def test_png_levels_give_the_same_pixels(photos):
    save(photos / "noise.png", Image.effect_noise((64, 64), 90).convert("RGB"))
    good_images(photos, 8)
    found = [by_name(make(photos, png_level=level))["noise.png"]["png"] for level in (0, 1, 9)]
    assert len({*found}) == 3
    assert len({np.asarray(Image.open(io.BytesIO(png))).tobytes() for png in found}) == 1
