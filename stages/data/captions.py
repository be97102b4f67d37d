"""Captions of images: as files, JSON fields and COCO's JSON hold them, and in an images artifact.

A text is one caption per line; blank lines are none, and nothing else is left out. An image may have several captions,
or none. In shards they are the member `txt`, UTF-8, separated by line feeds.

captions = Captions(Path("data/images"), "val")
captions.of(7)   # ["a large solid red star at the top", …]
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core import UserError
from stages.data.reader import image_facts
from stages.data.source import Refused
from stages.data.tar_index import TarIndex

FIELD = "txt"
LINES = re.compile(r"\r\n|\r|\n")  # not str.splitlines, which also breaks at rare separators inside a line
SHOWN = 3  # names in a message


def lines_of(text: str) -> list[str]:
    """The captions of a text."""
    return [line for line in LINES.split(text) if line.strip()]


def decode(content: bytes) -> str:
    """UTF-8, with or without its mark at the beginning; `Refused` names the line that is not."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise Refused(f"line {line}: not UTF-8 ({error.reason} at byte {error.start})") from None


def from_json(content: bytes, key: str) -> list[str]:
    """The captions under a key of a JSON section, none without the key; `Refused` for what cannot be captions."""
    section = json.loads(content)
    if not isinstance(section, dict):
        raise Refused(f"json holds {section!r:.80}: expected a section with the key {key!r}")
    return captions_in(section.get(key), f"json.{key}")


def captions_in(value: Any, where: str) -> list[str]:
    """The captions of a JSON value: a text, a list of texts, or null for none; `Refused` for any other."""
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if bad := [one for one in texts if not isinstance(one, str)]:
        raise Refused(f"{where} holds {bad[0]!r:.80}: expected a text or a list of texts")
    return [caption for text in texts for caption in lines_of(text)]


def to_member(captions: list[str]) -> bytes:
    """The member of a shard; empty without captions."""
    return "\n".join(captions).encode()


class Captions:
    """The captions of one split, by the number of the image in the order of the index."""

    def __init__(self, folder: Path, split: str):
        self._index = TarIndex(folder, image_facts(folder), split)
        self._having = {*self._index.having(FIELD).tolist()}

    def __len__(self) -> int:
        """The images of the split, with and without captions."""
        return len(self._index)

    def of(self, number: int) -> list[str]:
        """All captions of an image; empty if it has none."""
        return lines_of(self._index.read(number, FIELD).decode()) if number in self._having else []


# --- COCO's captions JSON ---------------------------------------------------------------------------------------------


def find_files(path: Path) -> list[Path]:
    """The JSON file itself, or all captions*.json of a folder, such as COCO's `annotations`."""
    return sorted(path.glob("captions*.json")) if path.is_dir() else [path]


def hash_of(path: Path) -> str:
    """A hash of the contents of the JSON files."""
    return hashlib.sha256(b"".join(hashlib.sha256(one.read_bytes()).digest() for one in find_files(path))).hexdigest()


def read_coco(path: Path) -> dict[str, list[str]]:
    """{file_name: its captions, in the order of the file}; `UserError` names the entry that cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.captions: {path}: not JSON: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise UserError(f"data.captions: {path}: expected COCO's lists `images` and `annotations`")
    names = {field_of(path, "images", n, one, "id"): field_of(path, "images", n, one, "file_name")
             for n, one in enumerate(content["images"])}  # fmt: skip
    found: dict[str, list[str]] = defaultdict(list)
    for number, one in enumerate(content["annotations"]):
        place = f"annotations[{number}]"
        if (owner := field_of(path, "annotations", number, one, "image_id")) not in names:
            raise UserError(f"data.captions: {path}: {place}: image_id {owner!r} is none of `images`")
        try:
            found[names[owner]] += captions_in(field_of(path, "annotations", number, one, "caption"), "caption")
        except Refused as error:
            raise UserError(f"data.captions: {path}: {place}: {error}") from None
    return dict(found)


def field_of(path: Path, key: str, number: int, entry: Any, field: str) -> Any:
    """A field of an entry of COCO's JSON."""
    kinds = {"file_name": str, "id": int | str, "image_id": int | str}
    value = entry.get(field) if isinstance(entry, dict) else None
    if field in kinds and not isinstance(value, kinds[field]):
        raise UserError(f"data.captions: {path}: {key}[{number}].{field} = {value!r:.80}: expected a name or a number")
    return value


def match(path: Path, images: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """{image of the listing: its captions} by COCO's JSON at `path`, and what a user should know about it.

    A file_name names the image whose path it is, or ends; one that fits several images is a `UserError`.
    """
    by_end: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_end[name.rpartition("/")[2]].append(name)
    found: dict[str, list[str]] = defaultdict(list)
    notes = []
    for file in find_files(path):
        missing = []
        for name, captions in read_coco(file).items():
            fits = [one for one in by_end[name.rpartition("/")[2]] if one == name or one.endswith(f"/{name}")]
            if len(fits) > 1:
                raise UserError(f"data.captions: {file}: {name!r} fits several images: {', '.join(fits[:SHOWN])}")
            if fits:
                found[fits[0]] += captions
            else:
                missing.append(name)
        notes += [f"{len(missing)} images of {file} are not in the folder, such as {missing[0]!r}"] if missing else []
    if not found:
        raise UserError(f"data.captions: {path}: none of its images is in the folder")
    return dict(found), notes
