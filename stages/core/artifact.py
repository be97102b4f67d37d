"""Artifacts: folders that a config.json describes and that appear all at once.

The config.json holds the artifact's type, the digests of its inputs, the sha256 of its files, with which each is
compared before it is read, and a checksum of all that. An artifact is written under a temporary name, flushed and
renamed, so a killed stage leaves either the whole artifact or none.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import UserError, code
from stages.core.code import track

CONFIG = "config.json"
VERIFIED, RECENT_NS = Path("scratch/verified"), 10**8
_verified: set[tuple[str, str]] = set()  # what this process has hashed: sha256, stamp of the file


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, expected: str) -> bool:
    """True if a file has this sha256; not hashed again while its size, time and inode are the same.

    scratch/verified/<sha256> holds a line with these facts, for later stages. Without a folder scratch/ this process
    alone remembers them.
    """
    facts, note = path.stat(), VERIFIED / expected
    stamp = f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    if (expected, stamp) in _verified or (note.is_file() and stamp in note.read_text(errors="replace").splitlines()):
        return True
    intact = sha256(path) == expected
    if intact and time.time_ns() - facts.st_mtime_ns > RECENT_NS:  # else it may still change without another time
        _verified.add((expected, stamp))
        with suppress(OSError):  # no scratch/, or one that cannot be written
            VERIFIED.mkdir(exist_ok=True)
            with open(note, "a") as file:
                file.write(f"{stamp}\n")
    return intact


def with_checksum(facts: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON that `read_with_checksum` reads: its last key is a checksum of the others."""
    return json.dumps({**facts, "checksum": checksum(facts)}, indent=indent).encode() + b"\n"


def read_with_checksum(path: Path) -> dict[str, Any] | None:
    """What `with_checksum` was given; None for a file that is absent, cut or changed."""
    try:
        facts = json.loads(path.read_bytes())
        return facts if facts.pop("checksum") == checksum(facts) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def checksum(facts: dict[str, Any]) -> str:
    """sha256 of the JSON of `facts`."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def digest(artifact: Path) -> str:
    """One hash for a whole artifact: its config.json contains the hashes of everything else."""
    read(artifact)
    return sha256(artifact / CONFIG)


def find(artifact: Path) -> Path:
    """The artifact's folder, or a `UserError` that says how to make it."""
    if not (artifact / CONFIG).is_file():
        how = "Make it with `dvc repro`, or fetch it with `dvc pull`."
        raise UserError(f"{artifact}: no artifact here (no {CONFIG}). {how}")
    track(str(artifact), partial(sha256, artifact / CONFIG))
    return artifact


def read(artifact: Path) -> dict[str, Any]:
    """The config.json of an artifact of any type; `UserError` if it is damaged."""
    config = read_with_checksum(find(artifact) / CONFIG)
    if config is None:
        raise UserError(f"{artifact / CONFIG}: cut or edited: its checksum does not fit. {restoring(artifact)}")
    return config


def read_config(artifact: Path, type_: str) -> dict[str, Any]:
    """The config.json of an artifact of the given type."""
    config = read(artifact)
    if config.get("artifact") != type_:
        raise UserError(f"{artifact}: holds a {config.get('artifact')!r} artifact, expected {type_!r}")
    return config


def type_of(artifact: Path) -> str:
    """What kind of artifact a folder holds, such as "codebook"."""
    return read(artifact)["artifact"]


def check_made_from(made: Path, stage: str, **sources: Path) -> None:
    """`UserError` if the artifact `made` records other inputs than `sources`, such as images=…; `stage` makes it again.

    Inputs that it does not record are not compared.
    """
    recorded = read(made).get("inputs", {})
    for name, source in sources.items():
        if name in recorded and recorded[name] != digest(source):
            raise UserError(f"{made}: made from another {name} artifact than {source}. Run `dvc repro {stage}`.")


def images_digest(source: Path) -> str:
    """12 hex digits of an images artifact's digest; of any other artifact, those of the images it was made from."""
    config = read(source)
    return (digest(source) if config["artifact"] == "images" else config["inputs"]["images"])[:12]


def checked(artifact: Path, name: str) -> Path:
    """The path of a file in an artifact, after its bytes were compared with the hash in config.json."""
    path, expected = artifact / name, read(artifact)["files"][name]
    if not path.is_file():
        raise UserError(f"{path}: missing, though {artifact / CONFIG} lists it. Run `dvc checkout` or `dvc repro`.")
    if not is_intact(path, expected):
        why = f"its sha256 differs from {expected[:12]}… in {CONFIG}: truncated or edited"
        raise UserError(f"{path}: {why}. {restoring(artifact)}")
    return path


def restoring(artifact: Path) -> str:
    """How to get a damaged artifact anew."""
    advice = f"Delete {artifact} and run `dvc checkout` or `dvc repro`. "
    return f"{advice}If it comes back damaged, DVC's cache is: run `semtok doctor`."


def copy(source: Path, out: Path) -> None:
    """Copy the artifact `source` to `out`, a folder of another artifact: files are checked, then linked if possible."""
    for name in read(source)["files"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        link(checked(source, name), out / name)
    shutil.copyfile(source / CONFIG, out / CONFIG)


def link(file: Path, target: Path) -> None:
    """Make `target` the same file: a hard link, or a copy on another file system."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


@contextmanager
def new_artifact(out: Path, type_: str, config: dict[str, Any], known: dict[str, str] | None = None) -> Generator[Path]:
    """A folder to fill; on leaving, hashes and config.json are added and it becomes `out` in one rename.

    The block may still fill `config`, and `known`: hashes of files that were hashed while they were written.
    """
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    seal(aside, type_, config, known)
    publish(aside, out)


def seal(folder: Path, type_: str, config: dict[str, Any], known: dict[str, str] | None = None) -> None:
    """Write config.json with the sha256 of every file below the folder; those in `known` are not computed again."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: (known or {}).get(name) or sha256(folder / name) for name in names}
    (folder / CONFIG).write_bytes(with_checksum({"artifact": type_, **config, "files": files}, indent=1))


def publish(folder: Path, out: Path) -> None:
    """Flush a finished folder to disk and rename it to `out`; what was there is renamed aside first, then removed.

    `UserError` if code, params or inputs changed since the stage began: nothing is published then.
    """
    code.check()
    for path in (*folder.rglob("*"), folder):
        flush(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(folder, out)
    flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_bytes(content)
    flush(aside)
    os.replace(aside, path)
