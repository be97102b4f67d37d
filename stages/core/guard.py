"""A result belongs to the params, code and inputs that made it: a stage that finds one changed since it began fails.

DVC hashes what a stage depends on after its command has ended (treeverse/dvc#11058), so that an edit in between would
be recorded as the origin of a result that it did not make. What is read through `seen` is read again before the end.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stages.core.errors import UserError

CODE = Path(__file__).absolute().parents[1]
STARTED_NS = time.time_ns()

Value = TypeVar("Value")

_files: dict[Path, bytes] = {}
_values: dict[str, tuple[Callable[[], Any], Any]] = {}


def begin() -> None:
    """Remember all source files as they are; forget what an earlier `main` in this process has read.

    `UserError` if one that is imported already was edited since this process began to import.
    """
    _values.clear()
    _files.clear()
    _files.update({path: path.read_bytes() for path in CODE.rglob("*.py")})
    _refuse([str(path.relative_to(CODE.parent)) for path in _imported() if path.stat().st_ctime_ns > STARTED_NS])


def seen(name: str, read: Callable[[], Value]) -> Value:
    """What `read` returns, which must still be so when the stage ends."""
    value = read()
    _values.setdefault(name, (read, value))
    return value


def check() -> None:
    """`UserError` with all that differs from the start: source files this process has imported, and what was `seen`."""
    changed = [str(path.relative_to(CODE.parent)) for path in _imported() if _now(path) != _files[path]]
    _refuse(changed + [name for name, (read, value) in _values.items() if _now_reads(read) != value])


def _imported() -> list[Path]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted({Path(file) for file in files if file} & _files.keys())


def _refuse(changed: list[str]) -> None:
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran: its result belongs to neither version and is not "
            "recorded. Run it again."
        )


def _now(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _now_reads(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (UserError, OSError) as error:
        return error
