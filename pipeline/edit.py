"""Change values of params.yaml and studies/params.yaml, and list the stages that become stale.

Run:    semtok set codebook.kmeans.num_codes=512 'samples.draws.seeds=[0, 1]' 'generators=[ar]'
        semtok set @presets/scenes.yaml codebook.kmeans.num_codes=256      # every value of a preset, then another one
Expect: the values, old -> new, and the stages that `semtok run` will run for them. A value that a stage would refuse
        changes nothing. VALUE is YAML; an empty one is the empty text. Comments stay. A preset may add sections, also
        as copies of others: pipeline/params_file.py. A value goes to the file that has its section, else to the first.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.dvc_status import read_status
from pipeline.errors import PipelineError
from pipeline.files import WORK, everywhere, write
from pipeline.graph import reach
from pipeline.params_check import said_of
from pipeline.params_file import (
    BASE,
    COLUMNS,
    clean_copy,
    differences,
    lay_over,
    leaves,
    parse,
    parse_sections,
    render,
)
from pipeline.stale import Status

PARAMS = "params.yaml"
OPEN = {"weights", "captions", "reference.extractors"}  # mappings whose keys are names that users choose
WHERE = re.compile(rf"^(?:{re.escape(str(WORK))}/)?(?:\w+/)?{re.escape(PARAMS)}: ")  # before a key in an error
SHOWN = 6  # stages of a matrix that are listed one by one; more are counted


@dataclass(frozen=True)
class Edited:
    """A params file, before and after."""

    path: Path
    text: str
    old: dict
    new: Any

    @property
    def changes(self) -> dict[str, str]:
        """What changed, by key."""
        return dict(differences(self.old, self.new))

    @property
    def candidate(self) -> Path:
        """Where the new text stands until the stages accept it."""
        return WORK / self.path


def main(assignments: list[str]) -> int:
    """Apply all `KEY=VALUE` and `@PRESET`, or none; print what changed and which stages become stale."""
    return apply(lambda params: read_arguments(assignments, params))


def apply(values_for: Callable[[dict], dict]) -> int:
    """Lay the values that `values_for` gives for all params over their files, or refuse all; print the effect."""
    files = read_files()
    values = values_for({key: section for file in files for key, section in file.old.items()})
    for file in files:
        lay_over(file.new, {key: value for key, value in values.items() if owner(key, files) is file})
    changes = {key: change for file in files for key, change in file.changes.items()}
    if not changes:
        print("the params have these values already: nothing changed")
        return 0
    before, notes = replace_if_possible(files)
    for key, change in changes.items():
        print(f"{key}  {change}"[:COLUMNS])
    print("\n" + "\n".join([*notes, *effect(before, read_status(), {*changes})]))
    return 0


def read_files() -> list[Edited]:
    """params.yaml and those beside other files dvc.yaml; `PipelineError` for a section in two of them."""
    files: list[Edited] = []
    for path in [Path(PARAMS), *filter(Path.is_file, everywhere(PARAMS)[1:])]:
        if not path.is_file():
            raise PipelineError(f"{path}: no such file in {Path.cwd()}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PipelineError(f"{path}: cannot be read: {error}") from None
        files.append(Edited(path, text, *(parse_sections(text, str(path)) for _ in range(2))))
        if doubled := [f"{key}: also in {one.path}" for one in files[:-1] for key in one.old if key in files[-1].old]:
            raise PipelineError(f"{path}: {'; '.join(doubled)}; remove one of the two")
    return files


def owner(key: str, files: list[Edited]) -> Edited:
    """The file that has a section; the first one, if none has."""
    return next((file for file in files if key in file.old), files[0])


def read_arguments(arguments: Iterable[str], params: dict) -> dict:
    """All `KEY=VALUE` and `@PRESET` as one tree of values; later arguments win."""
    values: dict = {}
    for argument in arguments:
        merge(values, read_preset(argument) if argument.startswith("@") else read_assignment(argument, params, values))
    return values


def read_preset(argument: str) -> dict:
    """The values of the file that `@FILE` names."""
    try:
        text = Path(argument[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{argument}: cannot be read: {error}") from None
    values = parse(text, argument[1:])
    if not isinstance(values, dict) or not values:
        raise PipelineError(f"{argument}: holds no sections with values, such as `codebook: {{num_codes: 512}}`")
    return clean_copy(values)


def read_assignment(argument: str, params: dict, values: dict) -> dict:
    """`a.b=1` as {a: {b: 1}}; the key must exist in the params, in a section that a preset adds, or below OPEN."""
    key, equals, written = argument.partition("=")
    if not key or not equals:
        raise PipelineError(f"{argument}: expected KEY=VALUE, such as codebook.kmeans.num_codes=512")
    sections = [*accumulate(key.split("."), "{}.{}".format)]
    if key.rpartition(".")[0] not in OPEN and not any(lookup(tree, key) for tree in (params, values)):
        if not any(lookup(values, f"{section}.{BASE}") for section in sections):
            raise PipelineError(f"{key}: the params have no such key{similar_keys(key, params)}")
    value: Any = parse(written, f"{key} = {written}") if written else ""
    if isinstance(value, (dict, set)):
        raise PipelineError(f"{key} = {written}: a mapping, where a value or a list is expected")
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def lookup(tree: Any, key: str) -> list[Any]:
    """The value under a dotted key, in a list; an empty list where there is none."""
    found = [tree]
    for name in key.split("."):
        found = [node[name] for node in found if isinstance(node, dict) and name in node]
    return found


def similar_keys(key: str, params: dict) -> str:
    """`; they have …` with keys of the same last name and of similar spelling."""
    known = [name for name, _ in leaves(params)]
    same_name = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    typos, similar = (get_close_matches(key, known, cutoff=cutoff) for cutoff in (0.85, 0.5))
    found = [*dict.fromkeys([*typos, *same_name, *similar])]
    return f"; they have {', '.join(found[:5])}" if found else ""


def merge(values: dict, more: dict) -> None:
    """Lay `more` over `values`, section by section."""
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            merge(values[name], value)
        else:
            values[name] = value


def replace_if_possible(files: list[Edited]) -> tuple[Status, list[str]]:
    """Replace files, each atomically, if the stages accept every value; the status before, and notes on the values."""
    changed = [file for file in files if file.changes]
    try:
        for file in files:
            write(file.candidate, render(file.old, file.new, file.text))
        notes, errors = said_of(files[0].candidate, "--here")
        if errors:
            names = " and ".join(str(file.path) for file in changed)
            lines = "\n".join(f"  {WHERE.sub('', line)}" for line in errors)
            raise PipelineError(f"{names}: not changed, since this is impossible:\n{lines}")
        before = read_status()
        for file in changed:
            shutil.copymode(file.path, file.candidate)
            os.replace(file.candidate, file.path)
    finally:
        for file in files:
            file.candidate.unlink(missing_ok=True)
    return before, notes


def effect(before: Status, after: Status, keys: set[str]) -> list[str]:
    """Lines that list the stages which run because of an edit of `keys`, and notes on other stages."""
    readers = after.readers(keys)
    other = {name for name, why in after.reasons.items() if why != before.reasons.get(name)}  # dvc.yaml uses a value
    direct = readers & ({*after.reasons} | after.unknown) | other
    affected = reach(direct - after.frozen(), after.downstream())
    already = before.affected() & after.affected()
    notes = {
        "up to date again": before.affected() - after.affected() & {*after.nodes},
        "no longer in the pipeline": {*before.nodes} - {*after.nodes},
        "frozen, so it does not run though it reads this (dvc unfreeze)": readers & after.frozen(),
        "running with the old value, so its result will not be recorded": readers & {*after.running},
    }
    lines = stage_lines(after, affected, already)
    lines += [f"{what}: {', '.join(collapse(sorted(names)))}" for what, names in notes.items() if names]
    others = len(already - affected)
    return [*lines, *([f"{others} other stages were stale before this edit"] if others else [])]


def stage_lines(status: Status, affected: set[str], already: set[str]) -> list[str]:
    """A title, and one line per affected stage, or per matrix of more than SHOWN."""
    if not affected:
        return ["No stage reruns for this."]
    ordered = [name for name in status.nodes if name in affected]
    lines, width = {}, max(map(len, collapse(ordered)))
    for name, shown in zip(ordered, shown_names(ordered), strict=True):
        lines.setdefault(shown, f"  {shown:{width}}  {'(stale before) ' * (name in already)}{status.nodes[name].desc}")
    title = "`semtok run` will run these, or restore them if DVC has their results for these values:"
    return [title, *(line[:COLUMNS].rstrip() for line in lines.values())]


def collapse(names: list[str]) -> list[str]:
    """Names of stages, those of a matrix of more than SHOWN as one, such as `decoder@* (33 stages)`."""
    return [*dict.fromkeys(shown_names(names))]


def shown_names(names: list[str]) -> list[str]:
    """Per name what `collapse` shows of it."""
    groups = [name.partition("@")[0] for name in names]
    counts = Counter(groups)
    return [
        f"{group}@* ({counts[group]} stages)" if counts[group] > SHOWN else name
        for name, group in zip(names, groups, strict=True)
    ]
