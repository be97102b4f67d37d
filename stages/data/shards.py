"""WebDataset shards, written shard by shard, resumable, by several processes; stages/data/tar_index.py reads them.

What the pipeline stores per image; images and features are in shards, codes and samples in NumPy arrays:
    image    uint8   [H, W, 3]   data/images/{train,val}-000000.tar    with class, caption, boxes, mask where known
    feature  float16 [N, D]      data/features/{train,val}-000000.tar  one row per patch, row-major
    code     uint16  [N]         data/tokens/<tokenizer>/{train,val}.npy              uint32 above 65,536 codes
    sample   uint16  [N]         data/samples/<tokenizer>/<generator>/codes.npy       uint32 above 65,536 codes

A shard is a plain tar with members `<key>.<field>`, all fields of a key together. Its bytes depend on the content
alone, so equal work gives equal hashes. Beside the shards lies `<split>.index.npy`, a structured array with one row per
sample: `key`, `shard` and, per field, (offset, size) of its content in bytes; (0, 0) where a sample lacks the field.
It is made while the shards are written: no tar is scanned to open an artifact.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from stages.core import UserError, artifact, distributed

BLOCK = 512  # bytes per tar block: one block for a member's header, then its content, padded
Record = tuple[str, dict[str, bytes]]  # key (8 digits), {field: bytes}
Build = Callable[[str], tuple[Iterable[Record], dict[str, Any]]]  # shard name -> its records, facts for the index
Places = dict[str, tuple[int, int]]  # field -> offset and size of its content in a shard


def share(names: list[str]) -> list[str]:
    """The shards that this process writes: every n-th one, for n processes."""
    return names[distributed.rank() :: distributed.world_size()]


def write_shards(folder: Path, names: list[str], build: Build, progress: Callable[[], object]) -> None:
    """Write this process's share of the named shards to `folder`; those already complete and intact there are kept.

    `build` may fill the facts that it returns until its last record has been read.
    """
    for name in share(names):
        if not is_finished(folder, name):
            write_shard(folder, name, build)
        progress()


def is_finished(folder: Path, name: str) -> bool:
    """True if an earlier attempt finished a shard; one that was damaged since then is named on the console."""
    if not (folder / f"{name}.json").is_file():
        return False
    facts = artifact.read_with_checksum(folder / f"{name}.json")
    hashes = {f"{name}.tar": facts["sha256"], f"{name}.npy": facts["index_sha256"]} if facts else {}
    if facts and all((folder / file).is_file() and artifact.is_intact(folder / file, hashes[file]) for file in hashes):
        return True
    print(f"{folder / name}.tar: damaged since an earlier attempt: it is written again", flush=True)
    return False


def write_shard(folder: Path, name: str, build: Build) -> None:
    """Write one tar, its index and its facts; the facts appear last, so a tar with facts is complete."""
    records, facts = build(name)
    aside = folder / f".{name}.tar.partial"
    with HashedFile(aside) as file:
        placed = write_tar(file, records)
    artifact.flush(aside)
    os.replace(aside, folder / f"{name}.tar")
    content = io.BytesIO()
    np.save(content, index_of(placed))
    artifact.write_atomically(folder / f"{name}.npy", content.getvalue())
    entry = {"name": f"{name}.tar", "samples": len(placed), "bytes": file.size, "sha256": file.sha256.hexdigest()}
    entry["index_sha256"] = hashlib.sha256(content.getvalue()).hexdigest()
    artifact.write_atomically(folder / f"{name}.json", artifact.with_checksum({**entry, **facts}))


class HashedFile(io.BufferedWriter):
    """A new file that is hashed while it is written, so that it need not be read again for its hash."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path, "w"))
        self.size, self.sha256 = 0, hashlib.sha256()

    def write(self, content: Any, /) -> int:
        self.sha256.update(content)
        written = super().write(content)
        self.size += written
        return written


def write_tar(file: HashedFile, records: Iterable[Record]) -> list[tuple[str, Places]]:
    """Write the records; return the key of each and the places of its fields.

    TarWriter's options make the bytes reproducible. It would sort the fields of a sample, so each is written by itself.
    """
    placed, end = [], 0
    with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
        for key, fields in records:
            places = {}
            for field, content in fields.items():
                tar.write({"__key__": key, field: content})
                places[field] = end + BLOCK, len(content)
                end += BLOCK + -(-len(content) // BLOCK) * BLOCK
            placed.append((key, places))
    return placed


def index_of(placed: list[tuple[str, Places]]) -> np.ndarray:
    """The index of one shard; its fields are in alphabetic order."""
    index = np.zeros(len(placed), index_type({field for _, places in placed for field in places}))
    for row, (key, places) in enumerate(placed):
        index["key"][row] = int(key)
        for field, place in places.items():
            index[field][row] = place
    return index


def index_type(fields: Iterable[str]) -> np.dtype:
    """The type of an index row."""
    return np.dtype([("key", "<i8"), ("shard", "<i8"), *((field, "<i8", 2) for field in sorted(fields))])


def read_facts(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """The facts of finished shards, in order."""
    found = {name: artifact.read_with_checksum(folder / f"{name}.json") for name in names}
    if damaged := [name for name, facts in found.items() if facts is None]:
        raise UserError(f"{folder / damaged[0]}.json: damaged. Run the stage again, which writes this shard anew.")
    return [facts for facts in found.values() if facts is not None]


def collect_split(
    work: Path, folder: Path, split: str, entries: list[dict[str, Any]], hashes: dict[str, str]
) -> dict[str, Any]:
    """Put a split's finished shards and their index into `folder`; return their entry of config.json.

    `entries` are the facts of all shards; shards without samples are left out. The hashes of the others, computed when
    they were written, are added to `hashes`.
    """
    own = [entry for entry in entries if entry["name"].startswith(f"{split}-") and entry["samples"]]
    for entry in own:
        artifact.link(work / entry["name"], folder / entry["name"])
        hashes[entry["name"]] = entry["sha256"]
    parts = [np.load((work / entry["name"]).with_suffix(".npy")) for entry in own]
    np.save(folder / f"{split}.index.npy", join_indices(parts))
    shards = [{key: entry[key] for key in ("name", "samples", "bytes")} for entry in own]
    return {"images": sum(entry["samples"] for entry in own), "shards": shards}


def join_indices(parts: list[np.ndarray]) -> np.ndarray:
    """The index of shards 0, 1, … from the index of each; they may differ in fields."""
    fields = {name for part in parts for name in part.dtype.names or ()} - {"key", "shard"}
    joined = np.zeros(sum(map(len, parts)), index_type(fields))
    start = 0
    for shard, part in enumerate(parts):
        rows = joined[start : (start := start + len(part))]
        for name in part.dtype.names or ():
            rows[name] = part[name]
        rows["shard"] = shard
    return joined
