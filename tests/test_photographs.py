"""Photographs out of Debian packages: which, with what beside them, and what is refused. No network.

Run: uv run pytest tests/test_photographs.py
"""

import json
import sys

import numpy as np
import pytest
from debs import COPYRIGHT, rcc, write_deb, write_packages
from PIL import Image

from stages.core import UserError, artifact
from stages.data.photographs import fetch
from stages.data.photographs.folders import ACTIVITY_FOLDERS, ANIMALS, FOLDERS, GCOMPRIS, TUXPAINT, class_of
from stages.data.photographs.packages import words
from stages.data.photographs.rcc import read_rcc

FILES = {f"gcompris/a{n}/{n}.webp": bytes([n]) * (n + 1) for n in range(7)} | {"top.txt": "ünïcode".encode()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    write_packages(folder)
    return folder


@pytest.fixture(scope="module")
def made(packages, tmp_path_factory):
    """The command's output."""
    out = tmp_path_factory.mktemp("made") / "photographs"
    run(out, packages)
    return out


def run(out, packages=None):
    given = ["fetch", "--out", str(out), *(["--packages", str(packages)] if packages else [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", given)
        fetch.main()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_resource_file_of_any_version_gives_its_files(version):
    assert dict(read_rcc(rcc(FILES, version))) == FILES


@pytest.mark.parametrize(("content", "said"), [
    (b"", "not a Qt resource file, or damaged"),
    (b"PNG\n" + bytes(60), "begins with b'PNG"),
    (rcc(FILES, 3)[:-8], "not a Qt resource file, or damaged"),
    (rcc(FILES, 3).replace(b"qres\0\0\0\3", b"qres\0\0\0\4"), "of version 1 to 3"),
])  # fmt: skip
def test_what_is_no_resource_file_is_refused(content, said):
    with pytest.raises(UserError, match=said):
        dict(read_rcc(content))


def test_every_class_has_its_folder_with_a_caption_and_a_row_of_attribution_per_picture(made):
    assert {one.name for one in (made / "images").iterdir()} == {*FOLDERS, *ACTIVITY_FOLDERS, *ANIMALS}
    pictures = [one for one in (made / "images").rglob("*") if one.suffix in (".png", ".webp")]
    assert len(pictures) == sum(map(len, FOLDERS.values())) - 1 + 1 + sum(map(len, ACTIVITY_FOLDERS.values())) + 56
    assert all(one.with_suffix(".txt").read_text().strip() for one in pictures)
    rows = (made / "ATTRIBUTION.md").read_text()
    assert all(f"| {one.relative_to(made / 'images')} |" in rows for one in pictures)
    assert "| birds/erase-owl.webp | A. Photographer | CC-BY-SA-3.0 | https://example.org/owl |" in rows
    assert (
        "| birds/animals-birds-owl.png | * | GPL-2 |  |" in rows and "2020 Everyone 2021 Everyone Else; GPL-2" in rows
    )


def test_stamps_are_centered_on_a_square_and_described_by_their_package(made):
    image = Image.open(made / "images/birds/animals-birds-owl.png")
    assert image.size == (100, 100) and image.mode == "RGBA"
    opaque = np.asarray(image)[..., 3].any(1).nonzero()[0]
    assert (opaque[0], opaque[-1]) == (40, 59)
    assert (made / "images/birds/animals-birds-owl.txt").read_text() == "An owl.\n"
    assert (made / "images/birds/erase-owl.txt").read_text() == "owl\n"


@pytest.mark.parametrize(("path", "label"), [
    ("usr/share/tuxpaint/stamps/animals/mammals/cats/lion.png", "mammals"),
    ("usr/share/tuxpaint/stamps/household/tools/saw.png", "tools"),
    ("usr/share/tuxpaint/stamps/household/key.png", None),  # a drawing
    ("usr/share/tuxpaint/stamps/vehicles/dumper_mirror.png", None),
    ("usr/share/tuxpaint/stamps/animals/birds/cartoon/owl.png", None),
    ("usr/share/tuxpaint/stamps/animals/birds/swallow.svg", None),
    ("gcompris/src/activities/erase/resource/bee.webp", "small_animals"),
    ("gcompris/src/activities/categorization/resource/images/monuments/colosseum.webp", None),  # a copy
    ("gcompris/src/activities/explore_monuments/resource/wonders/colosseum.webp", "buildings"),
    ("gcompris/src/activities/lang/resource/words_sample/bee.webp", None),
])  # fmt: skip
def test_the_folder_says_the_class(path, label):
    assert class_of(path) == label


def test_captions_are_names_in_words():
    assert words("a/leaningTowerOfPisa.webp") == "leaning tower of pisa"
    assert words("a/northern_harrier2.webp") == "northern harrier"


def test_the_same_packages_give_the_same_bytes_in_place_of_the_old_folder(made, packages, tmp_path):
    run(tmp_path / "again", packages)
    (tmp_path / "again" / "stray").touch()
    run(tmp_path / "again", packages)
    assert artifact.sha256(tmp_path / "again/config.json") == artifact.sha256(made / "config.json")
    assert not (tmp_path / "again/stray").exists()
    assert {*json.loads((made / "config.json").read_text())["packages"]} == {TUXPAINT, GCOMPRIS}


def test_nothing_is_written_where_the_packages_are_wrong_or_absent(packages, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match=f"holds 0 files {TUXPAINT}_"):
        run(out, other)
    for name in (TUXPAINT, GCOMPRIS):
        write_deb(other / f"{name}_1_all.deb", name, {})
    with pytest.raises(UserError, match="no picture of the classes birds, buildings, .*: other packages than expected"):
        run(out, other)
    write_deb(other / f"{TUXPAINT}_1_all.deb", GCOMPRIS, {})
    with pytest.raises(UserError, match=f"is the package '{GCOMPRIS}', expected '{TUXPAINT}'"):
        run(out, other)
    (other / f"{TUXPAINT}_1_all.deb").write_bytes((packages / f"{TUXPAINT}_1_all.deb").read_bytes()[:-900])
    with pytest.raises(UserError, match="not a Debian package, or damaged"):
        run(out, other)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no apt-get here.*--packages"):
        run(out)
    assert not out.exists() and {one.name for one in tmp_path.iterdir()} == {"other"}


def test_a_folder_of_something_else_is_not_replaced(packages, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    with pytest.raises(UserError, match="no artifact here"):
        run(tmp_path / "mine", packages)
    assert (tmp_path / "mine" / "photo.jpg").is_file() and "Everyone" in COPYRIGHT
