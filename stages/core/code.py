"""The code of a stage: which files its command imports, their hashes, and whether they changed while it ran.

Run:    python -m stages.core.code --out data/code        (the stage `code` of dvc.yaml)
Expect: a file per command (data/code/tokens.encode) and per kind (data/code/kinds/codebook.vqgan); a second. A line is
        a source file and the hash of its syntax tree: no comments, docstrings or layout, equal on Python 3.11 to 3.13.

A file that a module names in a string and that stands beside it, such as a template, counts as imported. A params.py
names the module of a kind (kmeans, vqgan …) by a string, and `import_kind` imports it: there the closure of a command
ends if the room has a pick_*.py, which gives each name the code of its kind. Else all kinds are included.

DVC hashes dependencies after a command has ended (treeverse/dvc#11058). `check` therefore compares code, params and
inputs with those at the start: at every checkpoint, and before a result is published.
"""

import argparse
import ast
import hashlib
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from stages.core import UserError

ROOT, CODE = Path(__file__).absolute().parents[2], Path("data/code")  # the latter where DVC runs the stages
STARTED_NS, SAVE_SECS = time.time_ns(), 1.0
DOCUMENTED, MODULE = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef), re.compile(r"stages\.\w+\.\w+")
EMPTY = hashlib.sha256(b"Module()").hexdigest()  # the hash of a file without code
Value = TypeVar("Value")
_files: dict[str, str] = {}  # path below ROOT -> hash when this process began to use it
_values: dict[str, tuple[Callable[[], Any], Any]] = {}  # name -> how it is read, what was read
_running = [False]  # True while a command runs; functions called from Python alone have no `begin`


def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file without docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def serialize(node: Any) -> str:
    """A node as its type and its non-empty fields; Python versions differ in empty fields and in f-strings."""
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!r}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({','.join(pieces_of(node))})"
    if isinstance(node, ast.AST):
        fields = [f"{name}={serialize(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({','.join(fields)})"
    return f"[{','.join(map(serialize, node))}]" if isinstance(node, list) else repr(node)


def pieces_of(node: ast.JoinedStr) -> Iterator[str]:
    """The parts of an f-string; Python 3.12 adds empty literals, and versions may split literals differently."""
    runs = groupby(node.values, lambda part: isinstance(part, ast.Constant))
    for literal, parts in [(literal, [*run]) for literal, run in runs]:
        text = "".join(part.value for part in parts) if literal else ",".join(map(serialize, parts))  # ty: ignore[missing-attribute]
        yield from [repr(text) if literal else text] if text else []


@cache
def _hash_at(path: Path, mtime_ns: int, size: int) -> str:  # a changed file is another entry
    text = serialize(tree_of(path)).encode() if path.suffix == ".py" else path.read_bytes()
    return hashlib.sha256(text).hexdigest()


def hash_of(path: Path) -> str:
    """The hash of a source file's syntax tree, or of another file's bytes; what is wrong with it if it has none."""
    try:
        return _hash_at(path, (facts := path.stat()).st_mtime_ns, facts.st_size)
    except (OSError, SyntaxError, ValueError) as error:
        return type(error).__name__


def imports_of(node: ast.AST) -> Iterator[str]:
    """Modules, and names that may be modules, that a tree imports anywhere."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (child.module, *(f"{child.module}.{alias.name}" for alias in child.names))


def strings_of(node: ast.AST) -> Iterator[str]:
    """Every string constant of a tree."""
    return (child.value for child in ast.walk(node) if isinstance(child, ast.Constant) and isinstance(child.value, str))


def files_of(module: str) -> set[Path]:
    """The file of a module below stages/ and the __init__.py of its packages, without those that hold no code."""
    parts = module.split(".")
    inits = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    paths = [*inits, ROOT.joinpath(*parts).with_suffix(".py")]
    return {path for path in paths if parts[0] == "stages" and path.is_file() and hash_of(path) != EMPTY}


@cache
def _uses_at(path: Path, mtime_ns: int) -> frozenset[Path]:
    tree = tree_of(path)
    named = (path.parent / text for text in strings_of(tree) if re.fullmatch(r"[\w-]+\.\w+", text))
    cut = path.name != "params.py" or any(path.parent.glob("pick_*.py"))
    names = [*imports_of(tree), *([] if cut else kinds_in(path))]
    modules = {file for name in names for file in files_of(name)}
    return frozenset(modules | {file for file in named if file.suffix != ".py" and file.is_file()})


def closure(module: str) -> list[Path]:
    """Every file that running a module imports or reads from beside itself, sorted."""
    seen: set[Path] = set()
    todo = files_of(module)
    while todo:
        seen.add(path := todo.pop())
        todo |= (_uses_at(path, path.stat().st_mtime_ns) if path.suffix == ".py" else set()) - seen
    return sorted(seen)


def hashes_of(module: str) -> dict[str, str]:
    """{path below the repository: hash} of a module's closure."""
    return {path.relative_to(ROOT).as_posix(): hash_of(path) for path in closure(module)}


def commands() -> Iterator[str]:
    """Modules below stages/ that are run by `python -m`."""
    for path in ROOT.glob("stages/*/*.py"):
        if path.parent.name != "core" and 'if __name__ == "__main__"' in path.read_text():
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def kinds() -> set[str]:
    """The kinds of every room that gives each name the code of its kind."""
    return {kind for path in ROOT.glob("stages/*/pick_*.py") for kind in kinds_in(path.with_name("params.py"))}


def kinds_in(params: Path) -> set[str]:
    """The kinds that one params.py names."""
    return {text for text in strings_of(tree_of(params)) if MODULE.fullmatch(text) and files_of(text)}


def write_lines(path: Path, hashes: dict[str, str]) -> None:
    """One line per file, sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())))


def read_lines(path: Path) -> dict[str, str]:
    """What `write_lines` wrote."""
    return dict(line.rpartition(" ")[::2] for line in path.read_text(errors="replace").splitlines())


def merge_kinds(modules: Iterable[str], out: Path) -> None:
    """Write one file with the code of several kinds, each from its file of the stage `code`."""
    files = [CODE / "kinds" / module.removeprefix("stages.") for module in modules]
    if missing := " ".join(str(file) for file in files if not file.is_file()):
        raise UserError(f"{missing}: missing. Run `dvc repro code`.")
    write_lines(out, {name: digest for file in files for name, digest in read_lines(file).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    for folder, modules in ((out, commands()), (out / "kinds", kinds())):
        for module in modules:
            write_lines(folder / module.removeprefix("stages."), hashes_of(module))
    (out / "no_folder").write_text("What stages depend on where a path in params.yaml names nothing.\n")
    [write_lines(out.with_name(one) / "none", {}) for one in ("text", "weights")]  # folders that stages depend on


def begin() -> None:
    """Remember the code of this command; forget what an earlier command in this process has read.

    `UserError` if data/code does not describe these sources: DVC would record the result under other code.
    """
    _values.clear(), _files.clear()
    _running[0] = True
    if spec := sys.modules["__main__"].__spec__:
        remember(spec.name, CODE / spec.name.removeprefix("stages."))
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    _refuse([path for path in _files if str(ROOT / path) in loaded and (ROOT / path).stat().st_ctime_ns > STARTED_NS])


def remember(module: str, recorded: Path) -> None:
    """Take the closure of `module` as it is now; compare it with the file of the stage `code` where DVC runs this."""
    now = hashes_of(module)
    if "DVC_STAGE" in os.environ and recorded.is_file() and (then := read_lines(recorded)) != now:
        changed = sorted(path for path in {*now, *then} if now.get(path) != then.get(path))
        raise UserError(f"{', '.join(changed)} changed since the stage `code` ran. Run `dvc repro`, which runs it.")
    _files.update({**now, **_files})


def import_kind(module: str) -> ModuleType:
    """Import the module of a kind, at which the closure of a command ends."""
    remember(module, CODE / "kinds" / module.removeprefix("stages."))
    return importlib.import_module(module)


def track(name: str, read: Callable[[], Value]) -> Value:
    """What `read` returns, which must still be so when the stage ends."""
    value = read()
    _values.setdefault(name, (read, value))
    return value


def fingerprint() -> list[tuple[str, str]]:
    """The code of this command and its kinds, as it was at the start: part of the key of unfinished work."""
    return sorted(_files.items())


def end() -> None:
    """The command has ended: until the next begins, `check` compares nothing."""
    _running[0] = False


def check() -> None:
    """`UserError` with everything that differs from the start of the command: its code, params and inputs."""
    files = [*_files] if _running[0] else []
    for wait in (0, SAVE_SECS):  # an editor may be in the middle of saving
        time.sleep(wait if files else 0)
        files = [path for path in files if hash_of(ROOT / path) != _files[path]]
    values = [*_values.items()] if _running[0] else []
    _refuse(files + [name for name, (read, value) in values if _now(read) != value])


def _refuse(changed: list[str]) -> None:
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran: its result would belong to neither version and is not "
            "recorded. Checkpoints are kept: undo the change and run again to continue, or run again as it is."
        )


def _now(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (UserError, OSError) as error:
        return error


if __name__ == "__main__":
    main()
