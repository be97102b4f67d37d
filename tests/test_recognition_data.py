"""Masks and boxes with classes: of rendered scenes, and of folders of ADE20K's and COCO's form.

Run: uv run pytest tests/test_recognition_data.py
"""

import json

import numpy as np
import pytest
from PIL import Image

from stages.core import UserError
from stages.data.scenes.scenes import render
from stages.recognition.folders import Ade, Coco, digest
from stages.recognition.miou import IGNORED
from stages.recognition.scenes import Scenes

SETTINGS = {"max_objects": 4, "patterned": 0.2, "nuisance": 0.1}


def test_every_object_of_a_scene_has_its_class_in_mask_and_boxes(scenes):
    split = Scenes(scenes, "val")
    numbers = np.arange(len(split))
    batch = render(0, [int(key) for key in split.keys_of(numbers)], img_px=32, **SETTINGS)
    shapes = batch.objects.shape
    expected = np.where(batch.owner < 0, 0, 1 + shapes[np.arange(len(shapes))[:, None, None], batch.owner])
    assert np.array_equal(split.masks(numbers), expected)
    counts = []
    for mask, found in zip(expected, split.boxes(numbers), strict=True):
        assert {*found.classes.tolist()} == {*mask.ravel().tolist()} - {0}
        for (x0, y0, x1, y1), kind in zip(found.corners.astype(int), found.classes, strict=True):
            part = mask[y0:y1, x0:x1] == kind
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
        counts.append(len(found.classes))
    assert max(counts) > 2 and np.array_equal(split.read(numbers), batch.images)


def test_images_of_another_source_are_refused(toy):
    with pytest.raises(UserError, match="expected scenes"):
        Scenes(toy / "data/images", "train")


@pytest.fixture
def ade(tmp_path):
    """Two pictures of 20 x 10 px: the left half is class 1 (label 1), the right one "other", the last row class 2."""
    for split in ("training", "validation"):
        for part in ("images", "annotations"):
            (tmp_path / part / split).mkdir(parents=True)
        labels = np.zeros((10, 20), np.uint8)
        labels[:, :10], labels[-1] = 1, 2
        for name in "ab":
            Image.new("RGB", (20, 10), "red").save(tmp_path / "images" / split / f"{name}.jpg")
            Image.fromarray(labels).save(tmp_path / "annotations" / split / f"{name}.png")
    (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n2\tfloor, ground\n")
    return tmp_path


def test_labels_of_ade_count_from_0_and_other_is_ignored(ade):
    split = Ade(ade, "val", 10, "center")
    assert split.classes == ["wall", "floor, ground"] and split.keys_of([1]) == ["b.jpg"]
    mask = split.masks([0, 1])
    assert mask.shape == (2, 10, 10) and (mask[:, -1] == 1).all() and (mask[:, :-1, :5] == 0).all()
    assert (mask[:, :-1, 5:] == IGNORED).all() and split.read([0]).shape == (1, 10, 10, 3)
    padded = Ade(ade, "val", 10, "pad").masks([0])[0]
    assert (padded[[0, 1, 8, 9]] == IGNORED).all() and (padded[3, :5] == 0).all()
    known = digest({"val": split})
    assert len(known) == 12 and known == digest({"val": Ade(ade, "val", 20, "pad")}) and digest({}) == ""
    Image.new("L", (20, 10), 2).save(ade / "annotations/validation/b.png")
    assert digest({"val": split}) != known, "changed labels are other data"


def test_what_is_wrong_with_a_folder_of_ade_is_named(ade):
    Image.fromarray(np.full((10, 20), 3, np.uint8)).save(ade / "annotations/training/a.png")
    with pytest.raises(UserError, match=r"training/a.png: label 3: expected 0 \(other\) to 2"):
        Ade(ade, "train", 10, "center").masks([0])
    Image.new("L", (8, 8)).save(ade / "annotations/training/a.png")
    with pytest.raises(UserError, match="a.png: 8x8 pixels, its image has 20x10"):
        Ade(ade, "train", 10, "center").masks([0])
    Image.new("RGB", (20, 10)).save(ade / "annotations/training/a.png")
    with pytest.raises(UserError, match="a.png: mode RGB: expected one number per pixel"):
        Ade(ade, "train", 10, "center").masks([0])
    (ade / "images/training/b.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="b.jpg: not an image"):
        Ade(ade, "train", 10, "center").read([1])
    (ade / "annotations/validation/b.png").unlink()
    with pytest.raises(UserError, match="validation/b.png: missing"):
        Ade(ade, "val", 10, "center")
    (ade / "objectInfo150.txt").unlink()
    with pytest.raises(UserError, match="expected the names of the labels"):
        Ade(ade, "train", 10, "center")


def instances(**changes) -> dict:
    box = {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 0, 10, 10], "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 20}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [box, {**box, "id": 2, "category_id": 3, "bbox": [0, 0, 9, 20], "iscrowd": 1},
                        {**box, "id": 3, "bbox": [20, 5, 40, 0]}], **changes,
    }  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (40, 20)).save(tmp_path / split / "a.jpg")
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(instances()))
    return tmp_path


def test_boxes_of_coco_are_those_of_the_square(coco):
    split = Coco(coco, "train", 10, "resize")
    assert split.classes == ["car", "dog"]
    [found] = split.boxes([0])
    assert found.corners.tolist() == [[2.5, 0, 5, 5], [0, 0, 2.25, 10]]  # the third spans no area
    assert found.classes.tolist() == [2, 1] and found.crowds.tolist() == [False, True]
    [central] = Coco(coco, "val", 10, "center").boxes([0])
    assert central.corners.tolist() == [[0, 0, 5, 5]]  # the crowd lies outside the square
    [padded] = Coco(coco, "val", 40, "pad").boxes([0])
    assert padded.corners.tolist() == [[10, 10, 20, 20], [0, 10, 9, 30]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [0, 0, -1, 5]}]},
            "expected .x, y",
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 5]}]}, "annotation 1: its cat"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18}]}, "expected the keys id, image_id"),
        ({"images": [{"id": 7, "file_name": "none.jpg"}]}, "train2017/none.jpg: missing"),
        ({"categories": {}}, "expected a list `categories`"),
    ],
)
def test_what_is_wrong_with_a_folder_of_coco_is_named(coco, changes, said):
    (coco / "annotations/instances_train2017.json").write_text(json.dumps(instances(**changes)))
    with pytest.raises(UserError, match=said):
        Coco(coco, "train", 10, "center")


def test_a_folder_without_instances_is_refused(coco):
    (coco / "annotations/instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Coco(coco, "val", 10, "center")
    (coco / "annotations/instances_val2017.json").unlink()
    with pytest.raises(UserError, match="0 files instances_val"):
        Coco(coco, "val", 10, "center")
