"""An artefact is a folder that explains itself and appears all at once.

Every artefact holds a `config.json`: what it is, the sha256 of its files, the digests of what it was made from.
It is written aside, flushed to disk and renamed, so a killed stage leaves either the whole artefact or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.core.guard import seen

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(artefact: Path) -> str:
    """One hash for a whole artefact: its config.json contains the hashes of everything else."""
    return sha256(find(artefact) / CONFIG)


def find(artefact: Path) -> Path:
    """The artefact's folder, or a `UserError` that says how to make it."""
    if not (artefact / CONFIG).is_file():
        raise UserError(
            f"{artefact}: no artefact here (no {CONFIG}). Make it with `dvc repro`, or fetch it with `dvc pull`."
        )
    seen(str(artefact), partial(sha256, artefact / CONFIG))
    return artefact


def read_config(artefact: Path, kind: str) -> dict[str, Any]:
    """The config.json of an artefact of the given kind."""
    config = json.loads((find(artefact) / CONFIG).read_text())
    if config.get("kind") != kind:
        raise UserError(f"{artefact}: holds a {config.get('kind')!r} artefact, expected {kind!r}")
    return config


def checked(artefact: Path, name: str) -> Path:
    """The path of a file in an artefact, after its bytes were compared with the hash in config.json."""
    expected = json.loads((find(artefact) / CONFIG).read_text())["files"][name]
    path = artefact / name
    if not path.is_file():
        raise UserError(f"{path}: missing, though {artefact / CONFIG} lists it. Run `dvc checkout` or `dvc repro`.")
    if sha256(path) != expected:
        raise UserError(
            f"{path}: its sha256 differs from {expected[:12]}… in {CONFIG}: truncated or edited. "
            f"Delete {artefact} and run `dvc checkout` or `dvc repro`."
        )
    return path


def load_tensors(artefact: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file in an artefact, on the CPU, after its bytes were compared with the hash."""
    from safetensors.torch import load_file

    return load_file(checked(artefact, name))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device as .safetensors."""
    from safetensors.torch import save_file

    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


def copy(source: Path, out: Path) -> None:
    """Copy an artefact into a new one that holds it, each file checked."""
    for name in json.loads((find(source) / CONFIG).read_text())["files"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checked(source, name), out / name)
    shutil.copyfile(source / CONFIG, out / CONFIG)


@contextmanager
def new_artefact(out: Path, kind: str, config: dict[str, Any]) -> Generator[Path]:
    """A folder to fill; on leaving, hashes and config.json are added and it becomes `out` in one rename.

    `config` may be completed inside the block.
    """
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    seal(aside, kind, config)
    publish(aside, out)


def seal(folder: Path, kind: str, config: dict[str, Any]) -> None:
    """Write config.json, with the hash of every file beside it or in folders below (artefacts inside this one)."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    text = json.dumps({"kind": kind, **config, "files": files}, indent=1)
    (folder / CONFIG).write_text(text + "\n")


def publish(folder: Path, out: Path) -> None:
    """Flush a finished folder to disk and rename it to `out`, replacing what was there."""
    for path in (*folder.rglob("*"), folder):
        flush(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(folder, out)
    flush(out.parent)


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
