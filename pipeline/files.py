"""Read and replace small text files; ask git."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

WORK = Path(".dvc/tmp/semtok")  # files of semtok's own, ignored by git and DVC


def everywhere(name: str) -> list[Path]:
    """A file of the root, such as dvc.lock, and those of that name beside each dvc.yaml one folder below."""
    folders = sorted(path.parent for path in Path().glob("*/dvc.yaml") if not (path.parent / ".dvc").exists())
    return [Path(name), *(folder / name for folder in folders)]  # without other repositories of DVC


def read(path: Path) -> str:
    """A file's text; empty if there is no file. Invalid UTF-8 is replaced."""
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def write(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new text, never a part."""
    for folder in (WORK, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    aside = WORK / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
    with open(aside, "w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def git(*arguments: str) -> str:
    """Output of a git command; empty if it fails or git is not installed."""
    if not shutil.which("git"):
        return ""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", timeout=30)
    return done.stdout if done.returncode == 0 else ""
