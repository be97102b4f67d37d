"""WebDataset shards: written shard by shard (resumable, by several processes), read back at random or in order.

The states of the data, and their names:
    image    uint8   [H, W, 3]   data/images/{train,val}-000000.tar    with class, caption, boxes where known
    feature  float16 [N, D]      data/features/{train,val}-000000.tar  one row a patch, row-major
    code     uint16  [N]         data/tokens/<tokenizer>/{train,val}.npy
    sample   code    [N]         data/samples/<tokenizer>/<generator>/

A shard is a plain tar: members `<key>.<field>`, all fields of a key together. Bytes depend on the content alone
(no times, no users), so equal work gives equal hashes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact, distributed
from stages.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Record = tuple[str, dict[str, bytes]]  # key, {field: bytes}
Build = Callable[[str], tuple[Iterable[Record], dict[str, Any]]]  # shard name -> its records, facts for the index


def write_shards(folder: Path, names: list[str], build: Build, progress: Callable[[], object]) -> None:
    """Build this process's share of the named shards in `folder`; those already complete there are kept.

    `build` may fill the facts it returns while its records are drawn. Rank r of n builds every n-th shard.
    """
    for name in share(names):
        if not (folder / f"{name}.json").is_file():
            write_shard(folder, name, build)
        progress()


def share(names: list[str]) -> list[str]:
    """The shards that this process builds."""
    return names[distributed.rank() :: distributed.world_size()]


def write_shard(folder: Path, name: str, build: Build) -> None:
    """One tar and its facts; the facts appear last, so that their presence means the tar is whole."""
    records, facts = build(name)
    aside = folder / f".{name}.tar.partial"
    members = 0
    with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, fields in records:
            for field, content in fields.items():
                info = tarfile.TarInfo(f"{key}.{field}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            members += 1
    artefact.flush(aside)
    os.replace(aside, folder / f"{name}.tar")
    entry = {"name": f"{name}.tar", "samples": members, "sha256": artefact.sha256(folder / f"{name}.tar"), **facts}
    artefact.write_atomically(folder / f"{name}.json", json.dumps(entry).encode())


def read_facts(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """The facts of finished shards, in order."""
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def publish_shards(folder: Path, out: Path, names: list[str], config: dict[str, Any]) -> None:
    """Move the finished shards from scratch to the artefact `out`; shards without samples are left out."""
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for entry in read_facts(folder, names):
        if entry["samples"]:
            place(folder, aside, entry["name"])
    artefact.seal(aside, config.pop("kind"), config)
    artefact.publish(aside, out)


def place(folder: Path, aside: Path, name: str) -> Path:
    """The finished shard `name` of `folder`, also in `aside`: a hard link, or a copy on another file system."""
    try:
        os.link(folder / name, aside / name)
    except OSError:
        shutil.copyfile(folder / name, aside / name)
    return aside / name


def members(tar_path: Path, field: str) -> list[tuple[str, int, int]]:
    """(key, offset, size) of every member with this field; a truncated or foreign file is a `UserError`."""
    try:
        with tarfile.open(tar_path) as tar:
            found = [info for info in tar if info.name.split(".", 1)[1] == field]
    except (tarfile.TarError, EOFError, IndexError) as error:
        raise broken(tar_path, str(error)) from None
    end = tar_path.stat().st_size
    if any(info.offset_data + info.size > end for info in found):
        raise broken(tar_path, "it ends inside a member")
    return [(info.name.split(".", 1)[0], info.offset_data, info.size) for info in found]


def broken(path: Path, why: str) -> UserError:
    """The error for a shard that cannot be read as the index says."""
    return UserError(f"{path}: broken shard ({why}). Delete {path.parent} and run `dvc checkout` or `dvc repro`.")


def shard_paths(folder: Path, kind: str, split: str) -> list[Path]:
    """A split's shards in order, each present and as long as the artefact's index says."""
    config = artefact.read_config(folder, kind)
    paths = []
    for entry in config["splits"][split]["shards"]:
        path = folder / entry["name"]
        if not path.is_file():
            raise UserError(f"{path}: missing, though the index lists it. Run `dvc checkout` or `dvc repro`.")
        if len(found := members(path, entry["field"])) != entry["samples"]:
            raise broken(path, f"{len(found)} samples, the index says {entry['samples']}")
        paths.append(path)
    return paths


def read_arrays(folder: Path, kind: str, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """(key, array) of every sample of a split, in order."""
    for path in shard_paths(folder, kind, split):
        yield from read_shard(path)


def read_shard(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(key, array) of every sample of a shard, in order; arrays are plain .npy, never pickled."""
    import numpy as np

    with open(path, "rb") as file:
        for key, offset, size in members(path, "npy"):
            file.seek(offset)
            yield key, np.load(io.BytesIO(file.read(size)), allow_pickle=False)
