"""The image files that a user names: single ones, and all below folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stages.core import UserError
from stages.data.folder import refuse_others, sort_by_role
from stages.data.listing import list_folder
from stages.data.source import refusal


class ImageFile(NamedTuple):
    name: str  # relative to the deepest folder that holds all inputs, with "/"
    path: Path


class Found(NamedTuple):
    files: list[ImageFile]
    refused: list[dict[str, str]]  # {name, reason} of what cannot be used; reading adds broken files


def list_images(inputs: Sequence[Path]) -> Found:
    """All image files among and below the inputs, each once; `UserError` for an input that is not there."""
    if missing := [str(path) for path in inputs if not path.exists()]:
        raise UserError(f"{missing[0]}: no such file or folder")
    absolute = [Path(os.path.abspath(path)) for path in inputs]
    base = os.path.commonpath([path if path.is_dir() else path.parent for path in absolute])
    files, refused = dict[str, Path](), list[dict[str, str]]()
    for path in absolute:
        start = os.path.relpath(path, base)
        if not path.is_dir():
            files[Path(start).as_posix()] = path
            continue
        names, others = images_below(path)
        files |= {Path(start, name).as_posix(): path / name for name in names}
        refused += [refusal(Path(start, item["name"]).as_posix(), item["reason"]) for item in others]
    if not files:
        raise UserError(f"{', '.join(map(str, inputs))}: no image files here")
    return Found([ImageFile(name, path) for name, path in files.items()], refused)


def images_below(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of image files below a folder, in order, and what else is there and why it is left out."""
    listing = list_folder(folder)
    images, _, others = sort_by_role(listing.files)
    return images, listing.refused + refuse_others(others, listing.links)


def check_any(count: int, found: Found) -> None:
    """`UserError` if not one of the files could be read."""
    if not count:
        first = found.refused[-1]
        raise UserError(f"none of {len(found.files)} files could be read; {first['name']}: {first['reason']}")


def refused_lines(refused: list[dict[str, str]], most: int = 20) -> list[str]:
    """What a command prints of files that it left out."""
    lines = [f"  refused {item['name']}: {item['reason']}" for item in refused[:most]]
    return [*lines, f"  … and {len(refused) - most} more"] if len(refused) > most else lines
