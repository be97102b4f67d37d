"""Shards and their index: resumable, reproducible, never scanned or hashed twice. Run: pytest tests/test_shards.py"""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from stages.core import UserError, artifact
from stages.data import shards
from stages.data.tar_index import TarIndex

CONTENTS = {  # shard -> key -> field -> bytes; fields differ between samples and shards
    "train-000000": {"00000003": {"png": b"a" * 512, "txt": b""}, "00000007": {"png": b"b", "boxes.json": b"[]"}},
    "train-000001": {},
    "train-000002": {"00000012": {"png": b"c" * 5000, "mask.png": b"d" * 513}},
    "val-000000": {"00000004": {"png": b"e" * 511}},
}


def build(name: str):
    return CONTENTS[name].items(), {"note": name}


@pytest.fixture
def made(workdir) -> Path:
    """An artifact of CONTENTS, through work/."""
    (work := workdir / "work").mkdir()
    shards.write_shards(work, list(CONTENTS), build, lambda: None)
    config, hashes = {"splits": {}}, {}
    with artifact.new_artifact(workdir / "made", "images", config, hashes) as folder:
        for split in ("train", "val"):
            entries = shards.read_facts(work, list(CONTENTS))
            config["splits"][split] = shards.collect_split(work, folder, split, entries, hashes)
    return workdir / "made"


def open_split(folder: Path, split: str) -> TarIndex:
    return TarIndex(folder, artifact.read_config(folder, "images"), split)


def test_the_index_names_what_tarfile_finds(made):
    index = open_split(made, "train")
    assert index.keys() == ["00000003", "00000007", "00000012"] and index.keys([2, 0]) == ["00000012", "00000003"]
    assert {field: index.having(field).tolist() for field in ("png", "txt", "boxes.json", "mask.png", "json")} == {
        "png": [0, 1, 2], "txt": [0], "boxes.json": [1], "mask.png": [2], "json": [],
    }  # fmt: skip
    found = {}
    for path in sorted(made.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}
    indexed = {
        f"{key}.{field}": index.read(number, field)
        for number, key in enumerate(index.keys())
        for field in ("png", "txt", "boxes.json", "mask.png")
        if number in index.having(field)
    }
    assert indexed == found and len(found) == 6


def test_empty_shards_are_left_out_and_no_path_of_the_machine_is_kept(made):
    config = artifact.read_config(made, "images")
    assert [shard["name"] for shard in config["splits"]["train"]["shards"]] == ["train-000000.tar", "train-000002.tar"]
    assert config["splits"]["train"]["images"] == 3 and str(made.parent) not in (made / "config.json").read_text()


def test_opening_scans_no_tar_and_sealing_hashes_no_shard(made, monkeypatch):
    assert artifact.read_config(made, "images")["files"] == {
        path.name: artifact.sha256(path) for path in sorted(made.iterdir()) if path.name != artifact.CONFIG
    }
    hashed, sha256 = [], artifact.sha256
    monkeypatch.setattr(artifact, "sha256", lambda path: hashed.append(path.suffix) or sha256(path))
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("scans a tar"))
    work, config, hashes = made.parent / "work", {}, {}
    with artifact.new_artifact(made.parent / "again", "images", config, hashes) as folder:
        entries = shards.read_facts(work, list(CONTENTS))
        config["splits"] = {"train": shards.collect_split(work, folder, "train", entries, hashes)}
    assert ".npy" in hashed and ".tar" not in hashed
    index = open_split(made.parent / "again", "train")
    assert ".tar" not in hashed
    assert [index.read(number, "png") for number in (2, 2)] == [b"c" * 5000] * 2 and hashed.count(".tar") == 1


def test_two_processes_write_each_shard_once_and_finished_ones_are_kept(monkeypatch, workdir):
    def note(name):
        built.append(name)
        return [("00000000", {"txt": name.encode()})], {}

    built, names = [], ["a", "b", "c", "d", "e"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        shards.write_shards(workdir, names, note, lambda: None)
    assert built == ["a", "c", "e", "b", "d"]
    assert [entry["samples"] for entry in shards.read_facts(workdir, names)] == [1] * 5
    shards.write_shards(workdir, names, note, lambda: None)
    assert len(built) == 5


def test_bytes_depend_on_the_content_alone(workdir, monkeypatch):
    for folder, now in (("first", 1e9), ("second", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        (workdir / folder).mkdir()
        shards.write_shard(workdir / folder, "train-000002", build)
    first, second = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("first", "second"))
    assert first == second
    entry = json.loads(first["train-000002.json"])
    assert entry["bytes"] == len(first["train-000002.tar"]) and entry["note"] == "train-000002"
    with tarfile.open("first/train-000002.tar") as tar:
        assert {(info.mtime, info.uname, info.gname, info.uid, info.mode) for info in tar} == {(0, "", "", 0, 0o644)}


def test_parts_of_an_index_are_joined_by_field(made):
    table = np.load(made / "train.index.npy")
    assert table.dtype.names == ("key", "shard", "boxes.json", "mask.png", "png", "txt")
    assert table["shard"].tolist() == [0, 0, 1] and table["txt"][1:].tolist() == [[0, 0], [0, 0]]


def flip(path: Path) -> None:
    """Another bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_when_its_shard_is_first_read(made):
    flip(made / "train-000002.tar")
    index = open_split(made, "train")
    assert index.read(0, "png") == b"a" * 512
    with pytest.raises(UserError, match="train-000002.tar: broken shard .its sha256 differs .*`semtok doctor`"):
        index.read(2, "png")


@pytest.mark.parametrize("scratch", [True, False])
def test_a_file_is_hashed_once_for_all_stages_that_share_a_scratch(scratch, made, monkeypatch):
    if scratch:
        Path("scratch").mkdir()
    for path in made.iterdir():
        os.utime(path, (1e9, 1e9))
    hashed, sha256 = [], artifact.sha256
    monkeypatch.setattr(artifact, "sha256", lambda path: hashed.append(path.name) or sha256(path))

    def read() -> list[str]:
        hashed.clear()
        open_split(made, "train").read(2, "png")
        return [name for name in hashed if name != artifact.CONFIG]

    assert read() == ["train.index.npy", "train-000002.tar"] and read() == []
    artifact._verified.clear()  # as in another process
    assert read() == ([] if scratch else ["train.index.npy", "train-000002.tar"])
    os.utime(made / "train-000002.tar", (2e9, 2e9))
    assert read() == ["train-000002.tar"]


def test_a_file_that_was_just_written_is_not_remembered(made):
    Path("scratch").mkdir()
    os.utime(made / "train-000002.tar", (4e9, 4e9))
    open_split(made, "train").read(2, "png")
    assert not (artifact.VERIFIED / artifact.sha256(made / "train-000002.tar")).exists()


@pytest.mark.parametrize("suffix", [".tar", ".npy", ".json"])
@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, 40), lambda path: os.truncate(path, 0)])
def test_a_shard_damaged_since_an_earlier_attempt_is_written_again(suffix, damage, made, capsys):
    work, built = made.parent / "work", []
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    damage(work / f"train-000002{suffix}")
    shards.write_shards(work, list(CONTENTS), lambda name: (built.append(name), build(name))[1], lambda: None)
    assert built == ["train-000002"] and "work/train-000002.tar: damaged since" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before
