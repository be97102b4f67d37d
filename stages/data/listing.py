"""The files below a folder, in one order whatever the file system's is. Links to folders are followed.

Each folder is entered once, known by device and inode: first all that need no link, then the links, in the order of
their paths. Hidden files and folders are ignored.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from stages.data.source import Refused, refusal

Identity = tuple[int, int]  # device and inode
Roots = dict[str, Path]  # start of all paths from a folder -> the folder


class Listing(NamedTuple):
    """What lies below a folder; all paths are relative to it, with "/"."""

    files: dict[str, tuple[int, int]]  # path -> bytes, mtime in ns; sorted
    refused: list[dict[str, str]]  # entries that cannot be read, or are not entered again
    links: list[str]  # links to folders that were entered


def list_folder(folder: Path) -> Listing:
    """Every file below `folder`."""
    found, entered = Listing({}, [], []), dict[Identity, str]()
    pending = [""]
    while pending:
        pending = [link for start in sorted(pending) for link in read_below(folder, start, entered, found)]
    return found._replace(files=dict(sorted(found.files.items())), links=sorted(found.links))


def list_folders(roots: Roots) -> Listing:
    """Every file below each of the folders, its path after the folder's own start."""
    found = {start: list_folder(folder) for start, folder in roots.items()}
    return Listing(
        files={start + name: facts for start, one in found.items() for name, facts in one.files.items()},
        refused=[refusal(start + item["name"], item["reason"]) for start, one in found.items() for item in one.refused],
        links=[start + name for start, one in found.items() for name in one.links],
    )


def locate(roots: Roots, name: str) -> Path:
    """The file of a path in the listing."""
    return next(folder / name.removeprefix(start) for start, folder in roots.items() if name.startswith(start))


def facts_of(roots: Roots) -> str:
    """A hash of the names, sizes and times of all files, of which no second list is made."""
    text = hashlib.sha256(b"[")
    for number, file in enumerate(list_folders(roots).files.items()):
        text.update(f"{', ' if number else ''}{file!r}".encode("utf-8", "surrogateescape"))
    text.update(b"]")
    return text.hexdigest()


def read_below(folder: Path, start: str, entered: dict[Identity, str], found: Listing) -> list[str]:
    """Add the files at `start` and in the folders below it; return the links to folders that stand there."""

    def unreadable(error: OSError) -> None:
        refuse(found, os.path.relpath(error.filename, folder), f"unreadable folder: {error.strerror}")

    links = []
    for root, dirs, names in os.walk(folder / start, onerror=unreadable):
        here = Path(root).relative_to(folder)
        if reason := mark_entered(folder, here, entered):
            refuse(found, here.as_posix(), reason)
            dirs.clear()
            continue
        shown = sorted(name for name in dirs if not name.startswith("."))
        dirs[:] = [name for name in shown if not Path(root, name).is_symlink()]
        links += [(here / name).as_posix() for name in shown if name not in dirs]
        for name in names:
            if not name.startswith("."):
                add_file(folder, (here / name).as_posix(), found)
        if start and here == Path(start):
            found.links.append(start)
    return links


def mark_entered(folder: Path, here: Path, entered: dict[Identity, str]) -> str:
    """Note the folder `here` as entered and return ""; or return why it is not entered."""
    place, facts = folder / here, (folder / here).stat()
    around = [above.resolve() for above in (place.parent, folder)] if place.is_symlink() and here != Path() else []
    if any(path.is_relative_to(place.resolve()) for path in around):
        return "a link that leads back to a folder around it"
    first = entered.setdefault((facts.st_dev, facts.st_ino), here.as_posix())
    return "" if first == here.as_posix() else f"the same folder as {ascii(first)[1:-1]}, which is already read"


def add_file(folder: Path, name: str, found: Listing) -> None:
    """Add a file, or say why it cannot be read."""
    try:
        found.files[name] = check_file(folder / name)
    except Refused as error:
        refuse(found, name, str(error))


def refuse(found: Listing, name: str, reason: str) -> None:
    """Add a refused entry; names that cannot be shown are escaped."""
    found.refused.append(refusal(ascii(name)[1:-1], reason))


def check_file(path: Path) -> tuple[int, int]:
    """(bytes, mtime in ns) of a regular file whose name is UTF-8; else `Refused`."""
    try:
        str(path).encode()
        facts = path.stat()
    except UnicodeEncodeError:
        raise Refused("its name is not UTF-8") from None
    except OSError as error:
        raise Refused(f"unreadable: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise Refused("not a regular file")
    return facts.st_size, facts.st_mtime_ns
