"""Every class has a train image: junk is no class, and a class without one gives train an image of val.

Run: uv run pytest tests/test_data_classes.py
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from photos import MACHINE, by_name, good_images, make, params, save

from stages.core import UserError
from stages.core.params import load
from stages.data import shards
from stages.data.folder import hash_of, open_folder, split_of
from stages.data.params import Params
from stages.data.plan import arrange
from stages.data.reader import ImageSplit, image_facts
from stages.data.source import Candidate
from stages.data.writer import check_splits, write_images


@pytest.fixture
def photos(workdir) -> Path:
    (workdir / "photos").mkdir()
    return workdir / "photos"


def splits_of(images: Path) -> dict[str, str]:
    """{name in the source: split}."""
    fields, keys = by_name(images), {split: ImageSplit(images, split).keys for split in ("train", "val")}
    assert sum(map(len, keys.values())) == len(fields)
    by_number = {key: split for split, of_split in keys.items() for key in of_split}
    names = {candidate.key: candidate.name for candidate in all_candidates(Path("photos"))}
    return {names[key]: split for key, split in by_number.items()}


def all_candidates(folder: Path) -> list[Candidate]:
    return [one for found in open_folder(params(folder)).splits.values() for one in found]


def fill(photos: Path) -> None:
    """40 classes of two images each, one class of one, three of junk in between."""
    for number in range(40):
        good_images(photos / f"c{number:02d}", 2)
    good_images(photos / "c20_alone", 1)
    for name in ("a_junk", "c30_junk", "z_junk"):
        (photos / name).mkdir()
        (photos / name / "0.jpg").write_text("no image")
        (photos / name / "1.png").touch()


def test_index_console_and_labels_agree_on_the_classes(photos, capsys):
    fill(photos)
    images = make(photos, val_fraction=0.4)
    facts, printed = image_facts(images), capsys.readouterr().out
    classes = sorted([f"c{number:02d}" for number in range(40)] + ["c20_alone"])
    assert facts["classes"] == classes and facts["dropped_classes"] == ["a_junk", "c30_junk", "z_junk"]
    assert min(facts["splits"]["train"]["per_class"].values()) == 1 and len(facts["splits"]["train"]["per_class"]) == 41
    no_val = [name for name, count in facts["splits"]["val"]["per_class"].items() if not count]
    assert facts["classes_without_val"] == no_val and "c20_alone" in no_val and 0 < len(no_val) < 41
    assert "81 images" not in printed and re.search(r"images, 41 classes, 6 files refused", printed)
    assert "data: 3 without a good train image, so no classes: a_junk, c30_junk, z_junk\n" in printed
    assert f"data: {len(no_val)} classes without a val image: {', '.join(no_val[:20])}" in printed
    for split in ("train", "val"):
        read = ImageSplit(images, split)
        counts = np.bincount(read.labels, minlength=41)
        assert dict(zip(classes, counts.tolist(), strict=True)) == facts["splits"][split]["per_class"]
    for name, fields in by_name(images).items():
        number = classes.index(name.split("/")[0])
        assert fields["cls"] == b"%d" % number and json.loads(fields["json"])["class"] == number


def test_a_class_of_val_images_alone_gives_train_the_one_with_the_lowest_hash(photos):
    for number in range(40):
        good_images(photos / f"c{number:02d}", 2)
    names = [f"c{number:02d}/{image}.png" for number in range(40) for image in range(2)]
    expected = {name: split_of(name, 0.5, 0) for name in names}
    lost = [name[:3] for name in names[::2] if {expected[name], expected[f"{name[:3]}/1.png"]} == {"val"}]
    moved = [min((f"{name}/0.png", f"{name}/1.png"), key=lambda one: hash_of(0, one)) for name in lost]
    images = make(photos)
    assert len(moved) > 3 and image_facts(images)["moved_to_train"] == moved
    assert splits_of(images) == expected | dict.fromkeys(moved, "train")
    good_images(photos / "another", 30)
    assert splits_of(make(photos)).items() > (expected | dict.fromkeys(moved, "train")).items()


def junk_in_train(photos: Path) -> str:
    """A class whose only good image hashes into val, among others; its name there."""
    good_images(photos / "a", 10)
    good_images(photos / "c", 10)
    for number in range(20):
        name = f"b/{number}.png"
        if split_of(name, 0.5, 0) == "train":
            save(photos / name).write_text("no image")
    good = next(f"b/{number}.png" for number in range(20) if split_of(f"b/{number}.png", 0.5, 0) == "val")
    save(photos / good)
    return good


def test_a_good_image_in_val_with_junk_in_train_goes_to_train(photos, capsys):
    good = junk_in_train(photos)
    images = make(photos)
    assert image_facts(images)["classes"] == ["a", "b", "c"] and splits_of(images)[good] == "train"
    assert image_facts(images)["splits"]["train"]["per_class"]["b"] == 1
    assert "0 classes have no good image, 1 need one of val for train" in capsys.readouterr().out


class Killed(BaseException):
    """The end of a process, for a test."""


def test_killed_at_any_shard_and_resumed_gives_the_bytes_of_one_run(photos, monkeypatch):
    junk_in_train(photos)
    (photos / "0_junk").mkdir()
    (photos / "0_junk/0.png").touch()
    whole = {path.name: path.read_bytes() for path in make(photos).iterdir()}
    written, last = shards.write_shard, [0]
    shutil.rmtree("scratch")

    def write_shard(folder, name, build):
        written(folder, name, build)
        last[0] += 1
        if last[0] % 2:
            raise Killed

    monkeypatch.setattr(shards, "write_shard", write_shard)
    for _ in range(30):
        shutil.rmtree("images", ignore_errors=True)
        try:
            write_images(Path("images"), params(photos), MACHINE)
            break
        except Killed:
            continue
    assert {path.name: path.read_bytes() for path in Path("images").iterdir()} == whole
    assert last[0] < 25, "no shard is written more than once per plan"


@pytest.mark.parametrize("name", ["train-000000.json", "refused.json"])
@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\x00", b'{"names": []}'])
def test_damaged_notes_of_unfinished_work_are_made_again(photos, name, damaged):
    junk_in_train(photos)
    whole = {path.name: path.read_bytes() for path in make(photos).iterdir()}
    [work] = [path for path in Path("scratch/images").iterdir() if path.is_dir()]
    assert (work / name).is_file()
    (work / name).write_bytes(damaged)
    shutil.rmtree("images")
    assert {path.name: path.read_bytes() for path in make(photos).iterdir()} == whole


def test_the_split_of_digits_and_scenes_is_kept(workdir):
    source = open_folder(params(workdir))
    images = [Candidate(f"{n:08d}", f"{n}", n % 2) for n in range(3)]
    kept = type(source)(["a", "b"], {"train": [images[0]], "val": images[1:]}, source.open, 0)
    plan = arrange(kept, set())
    assert plan.classes == ["a"] and plan.dropped == ["b"] and not plan.moved
    assert plan.splits == {"train": [images[0]], "val": [images[2]]}
    assert plan.refused == [{"name": "1", "reason": "'b' has no train image"}]


@pytest.mark.parametrize(
    ("source", "said"), [("digits", "data.source = 'digits': 0 good"), ("folder", "data.folder = ")]
)
def test_too_few_images_blame_the_folder_only_where_there_is_one(source, said, workdir):
    given = params(workdir).model_copy(update={"source": source})
    with pytest.raises(UserError, match=f"{said}.*0 for val .*expected at least 2 each; 0 files refused"):
        check_splits([], [], given)


def fill_splits(photos: Path) -> None:
    for split, name, count in (("train", "cat", 3), ("train", "dog", 4), ("val", "cat", 2), ("val", "mouse", 1)):
        good_images(photos / split / name, count)
    good_images(photos / "val/dog", 1)


def test_train_and_val_with_classes_inside_are_the_splits(photos, capsys):
    fill_splits(photos)
    facts = image_facts(make(photos, val_fraction=0.9))
    assert facts["classes"] == ["cat", "dog"] and facts["dropped_classes"] == ["mouse"]
    assert facts["splits"]["train"]["per_class"] == {"cat": 3, "dog": 4}
    assert facts["splits"]["val"]["per_class"] == {"cat": 2, "dog": 1}
    assert facts["refused"] == [{"name": "val/mouse/0.png", "reason": "'mouse' has no train image"}]
    assert "data: the folders train and val are taken as the splits, data.val_fraction is not used" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("wrong", ["test/cat/0.png", "validation/cat/0.png", "train/0.png"])
def test_other_splits_are_refused_with_the_cure(photos, wrong):
    fill_splits(photos)
    save(photos / wrong)
    with pytest.raises(
        UserError, match=r"holds splits \(.*train.*\) with classes inside, such as 'te|tr.*rename or move"
    ):
        make(photos)
    assert not Path("images").exists()


@pytest.mark.parametrize("names", [["train"], ["train", "Val"], ["training", "valid"]])
def test_splits_of_other_names_are_refused(photos, names):
    for name in names:
        good_images(photos / name / "cat")
    with pytest.raises(UserError, match=r"Expected either train/class/image and val/class/image"):
        make(photos)


@pytest.mark.parametrize("names", [["train", "val"], ["car", "deep/inside", "train"]])
def test_classes_that_are_called_like_splits_stay_classes(photos, names):
    for name in names:
        good_images(photos / name)
    assert image_facts(make(photos))["classes"] == sorted(name.split("/")[0] for name in names)


def test_sidecars_are_counted_per_split_and_on_the_console(photos, capsys):
    good_images(photos / "a", 35)
    for number in range(18):
        (photos / f"a/{number}.txt").write_text("a caption")
    (photos / "a/3.boxes.json").write_text("[[1, 2, 3, 4]]")
    splits = image_facts(make(photos))["splits"]
    totals = {noun: sum(splits[split]["sidecars"][noun] for split in splits) for noun in ("captions", "boxes", "masks")}
    assert totals == {"captions": 18, "boxes": 1, "masks": 0}
    assert 0 < splits["val"]["sidecars"]["captions"] < 18
    assert "data: captions 18, boxes 1, masks 0 of 35 images\n" in capsys.readouterr().out


def test_params_of_the_shipped_file_need_no_folder(workdir):
    (workdir / "params.yaml").write_text((Path(__file__).parents[1] / "params.yaml").read_text())
    assert load("data", Params).source == "digits"
