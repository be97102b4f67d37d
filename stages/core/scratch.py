"""Unfinished work on disk: a killed command that runs again continues from its own folder.

The folder is scratch/<output>/<key of params, inputs and code>/, ignored by git and DVC. Changed params, inputs or code
give another key. The folder is removed once dvc.lock records the finished output. Until then a second run publishes
that output again without repeating the work.

What a killed stage left is compared with its sha256 before it is used. Damaged files are set aside, as *.damaged, and
their work is done again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from stages.core import code
from stages.core.artifact import digest, read_with_checksum, with_checksum, write_atomically
from stages.core.distributed import rank
from stages.core.params import Section, parts_of

SCRATCH, PUBLISHED = Path("scratch"), "published.json"
HASH_BYTES = 32


@contextmanager
def scratch(
    out: Path, params: Section, inputs: list[Path], facts: str = "", meet: Callable[[], None] = lambda: None
) -> Generator[Path]:
    """The folder of unfinished work on `out` with these params, inputs and code; the block publishes `out`.

    `facts` describes inputs that are not artifacts. Finished work that dvc.lock records is removed here, by
    `semtok run` and by `semtok doctor --fix`. Rank 0 removes it and records the end of the work. So a parallel stage
    gives its barrier as `meet`, lest rank 0 removes what others have begun, and ends the block with a barrier.
    """
    task = SCRATCH / out.as_posix().strip("/").replace("/", "-")
    if rank() == 0:
        for folder in filter(accepted, task.glob("*")):
            shutil.rmtree(folder)
    meet()
    folder = task / key_of(params, inputs, facts)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if rank() == 0:
        write_atomically(folder / PUBLISHED, with_checksum({"out": out.as_posix(), "md5": dvc_hash(out)}))


def key_of(params: Section, inputs: list[Path], facts: str) -> str:
    """16 hex digits of the params, the input artifacts' digests, this command's code, and `facts`."""
    known = [params.model_dump(), {str(path): digest(path) for path in inputs}, code.fingerprint(), facts]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def accepted(folder: Path) -> bool:
    """True if the work in a folder of scratch/ was published and dvc.lock records exactly that output."""
    note = read_with_checksum(folder / PUBLISHED)
    if note is None:
        return False
    locks = [YAML(typ="safe").load(file) or {} for file in parts_of(Path("dvc.lock")) if file.is_file()]
    outs = [out for lock in locks for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
    return any(out["path"] == note["out"] and out.get("md5") == note["md5"] for out in outs)


def dvc_hash(folder: Path) -> str:
    """The md5 under which DVC 3 records a folder: that of the list of its files' md5s, sorted by path."""
    paths = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": md5(path), "relpath": name} for name, path in paths]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def md5(path: Path) -> str:
    """Hex md5 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def write_hashed(path: Path, content: bytes) -> None:
    """Write a file of unfinished work, with its sha256 behind the content: NumPy reads it all the same.

    It appears by rename but is not flushed to the disk: what a power failure damages, the hash shows.
    """
    aside = path.with_name(f".{path.name}.partial")
    aside.write_bytes(content + hashlib.sha256(content).digest())
    os.replace(aside, path)


def read_hashed(path: Path) -> bytes | None:
    """The content that `write_hashed` wrote; None if there is no file, or a damaged one, which is set aside."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    content, found = content[:-HASH_BYTES], content[-HASH_BYTES:]
    if hashlib.sha256(content).digest() == found:
        return content
    set_aside([path], "its work is done again")
    return None


def set_aside(paths: list[Path], then: str) -> None:
    """Rename damaged files or folders of unfinished work, and say so."""
    print(f"{', '.join(map(str, paths))}: damaged since it was written: set aside, {then}", flush=True)
    for path in paths:
        aside = path.with_name(f"{path.name}.damaged")
        if aside.is_dir():
            shutil.rmtree(aside)  # of an earlier time; a folder cannot replace a full one
        os.replace(path, aside)
