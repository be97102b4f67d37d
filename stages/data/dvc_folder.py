"""The folder of images as a dependency of DVC, which reads every file below it but enters no linked folder."""

import os
import stat
from pathlib import Path

NO_FOLDER = "data/code/no_folder"  # the value of data.folder for other sources: DVC needs a path that exists
SHOWN = 3


def refuse_unreadable(key: str, folder: Path) -> None:
    """`ValueError` with the entries at which DVC would stop, or wait forever."""
    if found := unreadable(folder):
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(
            f"{key} = {str(folder)!r}: DVC, which compares its files, cannot read {', '.join(found[:SHOWN])}{more}. "
            "Remove them, or choose another folder."
        )


def unreadable(folder: Path) -> list[str]:
    """Entries of the folder that DVC cannot read, sorted, each with the reason."""
    found, todo = [], [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))
                    elif reason := why_unreadable(entry):
                        found.append(f"{os.path.relpath(entry.path, folder)!a} ({reason})")
        except PermissionError:  # DVC leaves the folder out; the stage lists it as refused
            continue
    return sorted(found)


def why_unreadable(entry: os.DirEntry[str]) -> str:
    """Why DVC cannot read an entry that is no folder; empty if it can, also for a link to a folder."""
    try:
        entry.path.encode()
        mode = entry.stat().st_mode if not entry.is_file(follow_symlinks=False) else stat.S_IFREG
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return f"a link that leads nowhere: {error.strerror}"
    if entry.name == ".dvcignore":
        return "a file of DVC itself: is this a repository?"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a regular file"
