"""Captions from files, shards and COCO's JSON: several per image, none, and what is no caption.

Run: uv run pytest tests/test_captions.py
"""

import json
from pathlib import Path

import pytest
from photos import by_name, good_images, make, save

from stages.core import UserError
from stages.data.captions import Captions, captions_in, from_json, lines_of
from stages.data.reader import image_facts
from stages.data.source import Refused


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good_images(tmp_path / "photos", 12)
    return tmp_path / "photos"


def of_all(images: Path) -> dict[str, list[str]]:
    """{name of the image: its captions}, of both splits."""
    found = {name: lines_of(fields.get("txt", b"").decode()) for name, fields in by_name(images).items()}
    read = [
        one.of(number) for one in (Captions(images, "train"), Captions(images, "val")) for number in range(len(one))
    ]
    assert sorted(map(str, read)) == sorted(map(str, found.values())), "the reader finds what the shards hold"
    return found


def test_every_line_of_a_file_is_a_caption_and_nothing_of_it_is_left_out(photos, capsys):
    odd = '  two spaces, "quotes", http://a.b/c 1234567 \t'
    (photos / "0.txt").write_bytes(f"\ufeffein Würfel\r\n\n{odd}\n   \n红色的星星\u2028 и ещё\n".encode())
    (photos / "1.txt").write_text("one")
    (photos / "2.txt").write_text(" \n\n")
    (photos / "3.txt").touch()
    found = of_all(images := make(photos))
    assert found["0.png"] == ["ein Würfel", odd, "红色的星星\u2028 и ещё"] and found["1.png"] == ["one"]
    assert [name for name, captions in found.items() if captions] == ["0.png", "1.png"]
    splits = image_facts(images)["splits"].values()
    assert sum(one.get("captions", 0) for one in splits) == 4
    assert sum(one["sidecars"]["captions"] for one in splits) == 2
    assert "data: 4 captions in all; images without: 10\n" in capsys.readouterr().out


def test_without_captions_the_artifact_says_nothing_of_them(photos):
    assert all("captions" not in one for one in image_facts(make(photos))["splits"].values())


def test_a_caption_that_is_not_utf_8_is_named_with_its_line(photos):
    (photos / "0.txt").write_bytes(b"good\nbad \xff\n")
    [refused] = image_facts(make(photos))["refused"]
    assert refused["name"] == "0.png"
    assert refused["reason"] == "its sidecar 0.txt: line 2: not UTF-8 (invalid start byte at byte 9)"


@pytest.mark.parametrize(
    ("value", "captions"),
    [("a cat", ["a cat"]), (["a cat", "a dog\n"], ["a cat", "a dog"]), ("two\nlines", ["two", "lines"]),
     (None, []), ([], []), ("", []), ([" "], [])],
)  # fmt: skip
def test_captions_of_json_are_a_text_a_list_or_none(value, captions):
    assert captions_in(value, "json.text") == captions == from_json(json.dumps({"text": value}).encode(), "text")
    assert from_json(b"{}", "text") == []


@pytest.mark.parametrize("value", [7, {"a": 1}, ["good", 7], [["a"]]])
def test_other_json_is_refused(value):
    with pytest.raises(Refused, match="json.text holds .*: expected a text or a list of texts"):
        captions_in(value, "json.text")


# --- COCO -------------------------------------------------------------------------------------------------------------


def coco(path: Path, names: list[str], captions: list[tuple[int, object]]) -> Path:
    """A captions JSON of COCO's form: its images, numbered from 1, and (image, caption)."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    annotations = [{"id": n, "image_id": image, "caption": words} for n, (image, words) in enumerate(captions)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_cocos_json_gives_several_captions_per_image_by_file_name(photos, tmp_path, capsys):
    pairs = [(1, "a red half\n"), (2, "another"), (1, "and a blue half"), (3, "not here")]
    path = coco(tmp_path / "captions.json", ["0.png", "7.png", "gone.png"], pairs)
    found = of_all(make(photos, captions=str(path)))
    assert found["0.png"] == ["a red half", "and a blue half"] and found["7.png"] == ["another"]
    assert sum(map(len, found.values())) == 3
    assert f"data: 1 images of {path} are not in the folder, such as 'gone.png'" in capsys.readouterr().out


def test_a_folder_of_annotations_is_read_and_other_json_in_it_is_not(photos, tmp_path):
    save(photos / "a/0.png")
    for path in photos.glob("*.png"):
        path.rename(photos / "a" / path.name)
    coco(tmp_path / "annotations/captions_train.json", ["0.png"], [(1, "first")])
    coco(tmp_path / "annotations/captions_val.json", ["a/1.png"], [(1, "second")])
    (tmp_path / "annotations/instances_val.json").write_text("not read")
    found = of_all(make(photos, captions=str(tmp_path / "annotations")))
    assert found["a/0.png"] == ["first"] and found["a/1.png"] == ["second"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "captions.json: not JSON: Expecting property name"),
        ("[]", "captions.json: expected COCO's lists `images` and `annotations`"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\].file_name = None: expected a name or a number"),
        ('{"images": [], "annotations": [{"image_id": 5, "caption": "a"}]}', "image_id 5 is none of `images`"),
        ('{"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"image_id": 1, "caption": 7}]}',
         r"annotations\[0\]: caption holds 7: expected a text"),
        ('{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "caption": "a"}]}',
         "none of its images is in the folder"),
    ],
)  # fmt: skip
def test_a_broken_json_is_an_error_that_names_the_entry(photos, tmp_path, content, said):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(UserError, match=said):
        make(photos, captions=str(tmp_path / "captions.json"))


def test_a_name_that_fits_several_images_is_an_error(photos, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "more" / name / "0.png")
    path = coco(tmp_path / "captions.json", ["0.png"], [(1, "which?")])
    with pytest.raises(UserError, match="'0.png' fits several images: a/0.png, b/0.png"):
        make(tmp_path / "more", captions=str(path))


def test_captions_in_both_places_are_refused(photos, tmp_path):
    (photos / "0.txt").write_text("one")
    path = coco(tmp_path / "captions.json", ["0.png", "1.png"], [(1, "two"), (2, "three")])
    [refused] = image_facts(make(photos, captions=str(path)))["refused"]
    assert refused == {"name": "0.png", "reason": f"has captions in {path} and in 0.txt: expected one of them"}


def test_a_json_that_is_not_there_is_refused_at_the_door(photos):
    with pytest.raises(ValueError, match="expected COCO's captions JSON, or a folder with captions"):
        make(photos, captions="x.json")
