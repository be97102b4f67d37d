"""Links in a folder of images: each folder is entered once, whatever the order of the file system.

Run: uv run pytest tests/test_data_links.py
"""

import os
from pathlib import Path

import pytest
from photos import by_name, good_images, make, save

from stages.core import UserError, code
from stages.data import listing
from stages.data.listing import list_folder
from stages.data.reader import image_facts


@pytest.fixture
def photos(workdir) -> Path:
    """Two classes of eight images each."""
    for name in ("a", "b"):
        good_images(workdir / "photos" / name)
    return workdir / "photos"


def test_folders_that_link_to_each_other_are_entered_once(photos):
    (photos / "a/to_b").symlink_to("../b")
    (photos / "b/to_a").symlink_to("../a")
    images = make(photos)
    assert sorted(by_name(images)) == [f"{name}/{number}.png" for name in "ab" for number in range(8)]
    assert image_facts(images)["refused"] == [
        {"name": "a/to_b", "reason": "the same folder as b, which is already read"},
        {"name": "b/to_a", "reason": "the same folder as a, which is already read"},
    ]


def test_the_first_way_wins_and_folders_come_before_links(photos, monkeypatch, tmp_path):
    good_images(tmp_path / "elsewhere/deep", 2)
    for name in ("z", "c", "a/y"):
        (photos / name).symlink_to(tmp_path / "elsewhere")
    (photos / "0").symlink_to(tmp_path / "elsewhere/deep")
    (photos / "b/to_0").symlink_to("../0")
    found = list_folder(photos)
    assert found.links == ["0", "a/y"]
    assert [name for name in found.files if name[0] not in "ab"] == ["0/0.png", "0/1.png"]
    assert {item["name"]: item["reason"].split(",")[0] for item in found.refused} == {
        "a/y/deep": "the same folder as 0", "b/to_0": "the same folder as 0", "c": "the same folder as a/y",
        "z": "the same folder as a/y",
    }  # fmt: skip
    walk = os.walk

    def backwards(*given, **options):
        for root, dirs, names in walk(*given, **options):
            dirs.reverse(), names.reverse()
            yield root, dirs, names

    monkeypatch.setattr(listing.os, "walk", backwards)
    again = list_folder(photos)
    assert again.files == found.files and again.links == found.links
    assert sorted(map(str, again.refused)) == sorted(map(str, found.refused))


def test_a_link_to_a_folder_around_it_is_named(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (photos / "a/up").symlink_to("..")
    (photos / "b/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/around").symlink_to(tmp_path)
    found = list_folder(photos)
    assert [item["name"] for item in found.refused] == ["a/up", "b/out/around"]
    assert {item["reason"] for item in found.refused} == {"a link that leads back to a folder around it"}
    assert len(found.files) == 16


def test_linked_folders_in_which_dvc_sees_no_change_are_named(photos, tmp_path, capsys):
    good_images(tmp_path / "elsewhere", 3)
    (photos / "c").symlink_to(tmp_path / "elsewhere")
    assert image_facts(make(photos))["classes"] == ["a", "b", "c"]
    assert (
        "linked folders, in which DVC sees no change: c. After one, run `dvc repro -f data`" in capsys.readouterr().out
    )


def test_a_folder_that_changes_while_the_stage_runs_is_not_recorded(photos, monkeypatch):
    monkeypatch.setattr(code, "_running", [True])  # as `runtime.run` does
    monkeypatch.setattr(code, "SAVE_SECS", 0.0)
    monkeypatch.setattr(code, "_values", {})
    build = code.check

    def changed_meanwhile():
        save(photos / "a/new.png")
        build()

    monkeypatch.setattr(code, "check", changed_meanwhile)
    with pytest.raises(UserError, match="the files in .*photos changed while this stage ran"):
        make(photos)
    assert not Path("images").exists()


def test_files_behind_a_link_that_are_no_images_are_counted_not_named(photos, tmp_path):
    good_images(tmp_path / "elsewhere", 2)
    for name in ("diary.doc", "letter.doc"):
        (tmp_path / "elsewhere" / name).touch()
    (photos / "a/notes.doc").touch()
    (photos / "c").symlink_to(tmp_path / "elsewhere")
    assert image_facts(make(photos))["refused"] == [
        {"name": "a/notes.doc", "reason": "unsupported extension '.doc'"},
        {"name": "c", "reason": "2 files behind this link have unsupported extensions"},
    ]
