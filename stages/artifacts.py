"""Which artifacts a folder holds, and where the one of a name is. NumPy and torch are not imported."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core import UserError, artifact

DATA = Path("data")


@dataclass(frozen=True)
class Artifact:
    """A folder that the pipeline wrote, from its config.json."""

    type: str  # such as codebook, decoder, generator, images
    kind: str | None  # such as kmeans; None for types without kinds
    name: str | None
    path: Path
    config: dict[str, Any]


def list_artifacts(folder: str | Path = DATA) -> list[Artifact]:
    """Every artifact in and below a folder, by path; also those inside others, such as a tokenizer's encoder.

    `UserError` where there is no such folder, and for a config.json that was cut or edited. Hidden folders are skipped.
    """
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise UserError(f"list_artifacts: folder = {str(folder)!r}: expected a folder that exists")
    return [describe(path) for path in sorted(folders(Path(folder))) if is_artifact(path)]


def folders(top: Path) -> Iterator[Path]:
    """The folders in and below `top` that hold a config.json."""
    for path, below, files in os.walk(top, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        if artifact.CONFIG in files:
            yield Path(path)


def is_artifact(folder: Path) -> bool:
    """Whether its config.json is of this project; other programs write files of that name, too."""
    try:
        return "artifact" in json.loads((folder / artifact.CONFIG).read_bytes())
    except (ValueError, TypeError):
        return False


def describe(folder: Path) -> Artifact:
    """The facts of an artifact."""
    config = artifact.read(folder)
    return Artifact(config["artifact"], config.get("kind"), config.get("name"), folder, config)


def find_artifact(given: str | Path, type_: str | tuple[str, ...], root: Path = DATA) -> Path:
    """The folder `given`, or that of this name below `root`, such as kmeans-onestep: an artifact of one of the types.

    `UserError` that lists the names there are.
    """
    types = (type_,) if isinstance(type_, str) else type_
    if (Path(given) / artifact.CONFIG).is_file():
        if (found := artifact.type_of(Path(given))) not in types:
            raise UserError(f"{given}: holds a {found!r} artifact, expected {' or '.join(types)}")
        return Path(given)
    there = [one for one in (list_artifacts(root) if root.is_dir() else []) if one.type in types and is_own(one, root)]
    if len(named := [one.path for one in there if one.path.name == str(given)]) == 1:
        return named[0]
    names = ", ".join(sorted(one.path.name for one in there)) or "none; make them with `dvc repro`"
    what = "several artifacts have this name: give a path" if named else "no such artifact"
    raise UserError(f"{given}: {what}: expected a folder or a name below {root}: {names}")


def is_own(one: Artifact, root: Path) -> bool:
    """Whether the pipeline wrote it, as data/TYPE/NAME, and not as a part of another artifact."""
    return len(one.path.relative_to(root).parts) == 2
