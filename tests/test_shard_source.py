"""WebDataset shards as a source: classes, captions, splits, URLs, and what is refused.

Run: uv run pytest tests/test_shard_source.py
"""

import functools
import http.server
import io
import json
import re
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import webdataset
from photos import PX, WEBDATASET, by_name, halves, make, params, save
from PIL import Image

from stages.core import UserError
from stages.data.params import NO_FOLDER
from stages.data.reader import ImageSplit, image_facts
from stages.data.shard_source import open_shards


def jpg(first="red", second="blue", **how) -> bytes:
    file = io.BytesIO()
    halves(first, second, **how).save(file, "jpeg", quality=95)
    return file.getvalue()


def write(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A shard by webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for key, fields in samples.items():
            tar.write({"__key__": key, **fields})
    return path


def sample(number: int, **fields: bytes) -> dict[str, bytes]:
    return {"jpg": jpg(), "cls": str(number % 3 * 5).encode(), **fields}


def fill(folder: Path, names: str = "train", shards: int = 3, each: int = 6) -> None:
    for shard in range(shards):
        write(folder / f"{names}-{shard:02d}.tar", {f"{shard}{n:03d}": sample(n) for n in range(each)})


def prepare(folder: Path | str, val_folder: Path | str = NO_FOLDER, **section) -> dict:
    """config.json of the images made from the shards of a folder."""
    changes = {
        "source": "webdataset",
        "val_folder": str(val_folder),
        "webdataset": WEBDATASET.model_copy(update=section),
    }
    return image_facts(make(folder, **changes))


def test_the_images_are_those_of_a_folder_with_the_same_files(workdir):
    fill(workdir / "shards", shards=1, each=12)
    facts = prepare("shards")
    assert facts["classes"] == ["0", "5", "10"], "numbers in their order"
    by_shard = by_name(Path("images"))
    for number in range(12):
        save(workdir / f"photos/{number}.jpg", quality=95)
    make(workdir / "photos")
    expected = {fields["png"] for fields in by_name(Path("images")).values()}
    assert {fields["png"] for fields in by_shard.values()} == expected
    assert {name: fields["cls"] for name, fields in by_shard.items()} == {
        f"train-00.tar/0{n:03d}": str(n % 3).encode() for n in range(12)
    }


def test_each_sample_keeps_its_split_when_shards_come(workdir):
    def splits() -> dict[str, str]:
        found = open_shards(params("shards", source="webdataset")).splits
        return {candidate.name: split for split, candidates in found.items() for candidate in candidates}

    fill(workdir / "shards", shards=2)
    before = splits()
    fill(workdir / "shards", "more")
    assert before.items() <= splits().items() and {*before.values()} == {"train", "val"}


@pytest.mark.parametrize("how", ["val_folder", "val_shards", "both named"])
def test_shards_of_their_own_are_val(workdir, how, capsys):
    fill(workdir / "shards", shards=2)
    fill(workdir / ("val" if how == "val_folder" else "shards"), "val", shards=1, each=4)
    facts = {
        "val_folder": lambda: prepare("shards", "val"),
        "val_shards": lambda: prepare("shards", val_shards=["val-00.tar"]),
        "both named": lambda: prepare("shards", shards=["train-{00..01}.tar"], val_shards=["val-{00..00}.tar"]),
    }[how]()
    assert [facts["splits"][split]["images"] for split in ("train", "val")] == [12, 4]
    assert {name.split("/")[0] for name in by_name(Path("images"))} == {"train", "val"}
    assert "data.val_fraction is not used" in capsys.readouterr().out


def test_class_and_caption_may_be_keys_of_the_json_field(workdir):
    notes = [json.dumps({"label": name, "text": f"a {name}"}).encode() for name in ("cat", "dog", "cat", "dog") * 3]
    write(workdir / "shards/a.tar", {f"{n}": {"png": jpg(), "json": note} for n, note in enumerate(notes)})
    facts = prepare("shards", class_field="json.label", caption_field="json.text")
    assert facts["classes"] == ["cat", "dog"]
    assert sum(facts["splits"][split]["sidecars"]["captions"] for split in ("train", "val")) == 12
    assert by_name(Path("images"))["a.tar/1"]["txt"] == b"a dog"
    assert prepare("shards", class_field="", caption_field="")["classes"] == []
    assert {fields["cls"] for fields in by_name(Path("images")).values()} == {b"-1"}


def test_captions_of_json_may_be_several_or_none_and_odd_ones_are_refused(workdir):
    texts = {"both": ["a cat", "one more"], "none": [], "null": None, "odd": 7, "one": "a dog"} | dict.fromkeys("abcd")
    samples = {name: {"png": jpg(), "json": json.dumps({"text": text}).encode()} for name, text in texts.items()}
    write(workdir / "shards/a.tar", samples | {"without": {"png": jpg(), "json": b"{}"}})
    facts = prepare("shards", class_field="", caption_field="json.text")
    reason = "its sidecar json.text: json.text holds 7: expected a text or a list of texts"
    assert facts["refused"] == [{"name": "a.tar/odd", "reason": reason}]
    found = {name: fields.get("txt") for name, fields in by_name(Path("images")).items()}
    assert found.pop("a.tar/both") == b"a cat\none more" and found.pop("a.tar/one") == b"a dog"
    assert {*found.values()} == {None} and sum(split.get("captions", 0) for split in facts["splits"].values()) == 3


def test_our_own_shards_are_a_source_and_give_the_same_images(workdir):
    mask = io.BytesIO()
    Image.new("L", (40, 20), 3).save(mask, "png")
    fields = {"txt": b"halves", "boxes.json": b"[[10, 0, 20, 20]]", "mask.png": mask.getvalue()}
    write(workdir / "shards/a.tar", {f"{n}": sample(n, **fields) for n in range(8)})
    prepare("shards")
    own = Path("images").rename("own")
    first = by_name(own)
    prepare("own", shards=["train-000000.tar"], val_shards=["val-000000.tar"])
    kept = ("png", "cls", "txt", "boxes.json", "mask.png")
    again = sorted([fields[key] for key in kept] for fields in by_name(Path("images")).values())
    assert again == sorted([fields[key] for key in kept] for fields in first.values())
    assert json.loads(again[0][3]) == [[0, 0, 8, 16]]


BAD = {
    "a.b": ({"jpg": jpg()}, "no cls among b.jpg"),  # the field begins after the first dot
    "c": ({"cls": b"1"}, "no image among cls"),
    "d": ({"jpg": b"junk", "cls": b"1"}, "not an image file"),
    "e": ({"jpg": jpg(), "cls": b""}, "cls is '': expected a text or a number"),
    "f": ({"jpg": jpg(), "cls": b"\xff"}, "no text in cls: UnicodeDecodeError"),
    "g": ({"jpg": jpg(), "cls": b"1", "boxes.json": b"{}"}, "its sidecar boxes.json: expected"),
}


def test_what_is_no_sample_is_refused_with_the_reason_and_the_rest_goes_on(workdir):
    fill(workdir / "shards", shards=2)
    write(workdir / "shards/bad.tar", {key: fields for key, (fields, _) in BAD.items()})
    found = {item["name"]: item["reason"] for item in prepare("shards")["refused"]}
    assert found.keys() == {f"bad.tar/{key.partition('.')[0]}" for key in BAD}
    for key, (_, reason) in BAD.items():
        assert reason in found[f"bad.tar/{key.partition('.')[0]}"]


def test_a_key_that_comes_twice_is_refused_and_folders_in_a_shard_are_part_of_the_key(workdir):
    with webdataset.TarWriter(str(write(workdir / "shards/a.tar", {})), encoder=False) as tar:
        for n, key in enumerate([*(f"{folder}/{n}" for folder in "ab" for n in range(4)), "a/1"]):
            tar.write({"__key__": key, **sample(n)})
    facts = prepare("shards")
    assert [item["name"] for item in facts["refused"]] == ["a.tar/a/1"]
    assert sum(facts["splits"][split]["images"] for split in ("train", "val")) == 8


def test_a_broken_shard_and_one_that_is_not_there_are_named(workdir):
    fill(workdir / "shards")
    with pytest.raises(UserError, match=r"1 shards are not there: shards/train-03.tar"):
        prepare("shards", shards=["train-{00..03}.tar"])
    with pytest.raises(UserError, match=r"among shards and among val_shards: shards/train-02.tar"):
        prepare("shards", shards=["train-{00..02}.tar"], val_shards=["train-02.tar"])
    whole = (workdir / "shards/train-01.tar").read_bytes()
    (workdir / "shards/train-01.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train-01.tar: not a whole, plain tar archive"):
        prepare("shards")
    with tarfile.open(workdir / "shards/train-01.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"train-01.tar: not a whole, plain tar archive"):
        prepare("shards")
    (workdir / "none").mkdir()
    with pytest.raises(UserError, match=r"none: holds no \*.tar"):
        prepare("none")


@pytest.fixture
def served(workdir):
    """The folder `web` at an address of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(workdir / "web"))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_urls_are_downloaded_once_and_give_the_images_of_local_shards(workdir, served):
    fill(workdir / "web")
    facts = prepare("web")
    local = sorted(fields["png"] for fields in by_name(Path("images")).values())
    remote = prepare(NO_FOLDER, shards=[f"{served}/train-{{00..02}}.tar"])
    assert sorted(fields["png"] for fields in by_name(Path("images")).values()) == local
    assert remote["classes"] == facts["classes"]
    for path in (workdir / "web").glob("*.tar"):
        path.unlink()
    assert prepare(NO_FOLDER, shards=[f"{served}/train-{{00..02}}.tar"])["splits"] == remote["splits"]
    (workdir / "web/half.tar").write_bytes(write(workdir / "whole.tar", {"0": sample(0)}).read_bytes()[:1000])
    for name in ("gone", "half"):
        with pytest.raises(UserError, match=rf"cannot download {served}/{name}.tar"):
            prepare(NO_FOLDER, shards=[f"{served}/{name}.tar"])
    assert len([*Path("scratch/downloads").glob("*.tar")]) == 3


@pytest.mark.parametrize("pattern", ["pipe:cat a.tar", "file:///a.tar", "http:/a.tar", "https://x/a b.tar"])
def test_commands_and_odd_addresses_are_refused_at_the_door(pattern):
    with pytest.raises(ValueError, match=re.escape(repr(pattern))):
        type(WEBDATASET)(shards=[pattern], val_shards=[], class_field="cls", caption_field="")


@pytest.mark.parametrize("field", ["json.", "a b", "cls.x"])
def test_fields_are_a_name_or_a_key_of_json(field):
    with pytest.raises(ValueError, match="class_field"):
        type(WEBDATASET)(shards=[], val_shards=[], class_field=field, caption_field="")


def test_labels_and_images_are_read_like_those_of_any_source(workdir):
    fill(workdir / "shards", shards=2)
    prepare("shards")
    split = ImageSplit(Path("images"), "train")
    assert split.read(range(len(split))).shape == (len(split), PX, PX, 3)
    assert {*np.unique(split.labels)} <= {0, 1, 2}
