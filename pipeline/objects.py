"""The objects of DVC's cache against their names, which are the md5 of their bytes: a damaged one would be used.

An object that was right is remembered by size and modification time: only new and changed ones are read again.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from pipeline import dvc_locks, lockfile, repair
from pipeline.files import WORK, read, write
from pipeline.finding import Finding, human_size

KNOWN = WORK / "objects.json"  # name -> [bytes, modification time in ns] of objects that were right
NAME = re.compile(r"([0-9a-f]{32})(\.dir)?")
FIX, SHOWN = "semtok doctor --fix", 4
THEN = "then `dvc repro` computes them again, or `dvc commit` keeps what is right in the workspace"


def check(fix: bool) -> list[Finding]:
    """One line per damaged object, with the files of dvc.lock's outputs that it stands for."""
    folder = repair.cache_folders()[1]
    count, size, damaged = look_through(folder)
    if not damaged:
        return [Finding("ok", "cache objects", f"{count:,} have the bytes of their names; {human_size(size)} read")]
    owners = owners_of(folder)
    if fix:
        with dvc_locks.exclude_dvc() as alone:
            if not alone:
                return [Finding("warn", "cache objects", "a DVC process is running: check again when it has finished")]
            return [Finding("ok", "removed", line) for path in damaged for line in remove(path, owners)]
    texts = [f"{path}: other bytes than its name says: of {whose(path, owners)}; {THEN}" for path in damaged]
    return [Finding("FAIL", "cache objects", text, FIX) for text in texts]


def look_through(folder: Path) -> tuple[int, int, list[Path]]:
    """The number of objects, the bytes that had to be read, and the damaged objects."""
    known, right, damaged, size = read_known(), dict[str, list[int]](), list[Path](), 0
    try:
        for path in sorted(path for path in folder.glob("??/*") if NAME.fullmatch(name_of(path))):
            with suppress(FileNotFoundError):  # `dvc gc` beside us
                facts = [path.stat().st_size, path.stat().st_mtime_ns]
                if known.get(name_of(path)) != facts:
                    size += facts[0]
                    if md5(path) != name_of(path)[:32]:
                        damaged.append(path)
                        continue
                right[name_of(path)] = facts
    except BaseException:  # interrupted: what was read need not be read again
        right = known | right
        raise
    finally:
        write(KNOWN, json.dumps(right))
    return len(right) + len(damaged), size, damaged


def read_known() -> dict[str, list[int]]:
    """What an earlier check has found right; nothing if its file was cut off."""
    try:
        return dict(json.loads(read(KNOWN) or "{}"))
    except ValueError:
        return {}


def md5(path: Path) -> str:
    """Hex md5 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def name_of(path: Path) -> str:
    """The hash that an object's path says, with `.dir` for a list of files."""
    return path.parent.name + path.name


def owners_of(folder: Path) -> dict[str, list[str]]:
    """Name of an object -> the paths in the workspace that dvc.lock gives it to."""
    owners = defaultdict(list)
    for out, name in lockfile.recorded_outputs(*map(read, lockfile.lockfiles())).items():
        owners[name].append(out)
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # this list may be what is damaged
            for entry in json.loads((folder / name[:2] / name[2:]).read_bytes()) if name.endswith(".dir") else []:
                owners[entry["md5"]].append(f"{out}/{entry['relpath']}")
    return owners


def whose(path: Path, owners: dict[str, list[str]]) -> str:
    """The files that an object stands for, in words."""
    found = owners.get(name_of(path), [])
    more = f" and {len(found) - SHOWN} others" if len(found) > SHOWN else ""
    return f"{', '.join(found[:SHOWN])}{more}" if found else "no output of dvc.lock, but perhaps of an earlier one"


def remove(path: Path, owners: dict[str, list[str]]) -> list[str]:
    """Remove a damaged object, and files of the workspace that are the same file by a link; what was removed."""
    lines = [f"{path}, which had other bytes than its name says: of {whose(path, owners)}"]
    for owner in filter(os.path.exists, owners.get(name_of(path), [])):
        if os.path.samefile(owner, path):
            lines.append(f"{owner}, which was the same damaged file by a link")
            Path(owner).unlink()
    path.unlink()
    return lines
