"""Change values of params.yaml from the command line, and say which stages that makes run again.

Run:    semtok set codebook.kmeans.num_codes=512 'samples.draws.seeds=[0, 1]' 'generators=[ar]'
        semtok set @presets/scenes.yaml codebook.kmeans.num_codes=256      # every value of a file, then another
Expect: the values, old -> new, and the stages that `semtok run` will run for them. A value that a stage would refuse
        changes nothing. VALUE is YAML; an empty one is the empty text. Comments and all other bytes stay as they are.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from pipeline import repair
from pipeline.errors import PipelineError
from pipeline.graph import reach
from pipeline.outlook import Outlook, look, prefixes

PARAMS = Path("params.yaml")
ASIDE = repair.WORK / "params.yaml"
COLUMNS = 120


def set_values(assignments: list[str]) -> None:
    """Apply all `KEY=VALUE` and `@FILE`, or none; print what changed and what runs again for it."""
    if not PARAMS.is_file():
        raise PipelineError(f"{PARAMS}: no such file in {Path.cwd()}")
    old = PARAMS.read_bytes().decode()
    new = reduce(assign, [one for given in assignments for one in spelt_out(given)], old)
    changed = differing(old, new)
    if not changed:
        print(f"{PARAMS} has these values already: nothing changed")
        return
    before = look()
    replace_if_possible(new)
    for key, (then, now) in changed.items():
        print(f"{key}  {then} -> {now}")
    print()
    print("\n".join(effect(before, look(), {*changed})))


def spelt_out(given: str) -> list[str]:
    """The `KEY=VALUE` of an argument: itself, or of `@FILE` one for every value in that YAML file, as written there."""
    if not given.startswith("@"):
        return [given]
    path = Path(given[1:])
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{given}: cannot be read: {error}") from None
    found = [f"{key}={in_one_line(text, key, node)}" for key, node in leaf_nodes(text, path) if key]
    if not found:
        raise PipelineError(f"{given}: holds no sections with values, such as `codebook: {{num_codes: 512}}`")
    return found


def in_one_line(text: str, key: str, node: Any) -> str:
    """A value as it is written; a list with a line for each of its members, as JSON."""
    if isinstance(node, SequenceNode) and not node.flow_style:
        return json.dumps(reduce(dict.__getitem__, key.split("."), load(text)), default=str)
    return text[node.start_mark.index : node.end_mark.index]


def assign(text: str, assignment: str) -> str:
    """The text of a params file with one `KEY=VALUE` applied; the same text if the value is the same."""
    key, equals, written = assignment.partition("=")
    if not key or not equals:
        raise PipelineError(f"{assignment}: expected KEY=VALUE, such as codebook.kmeans.num_codes=512")
    nodes = dict(leaf_nodes(text))
    node, value, expected = find(nodes, key), parse(key, written), load(text)
    owner, last = holder(expected, key)
    if repr(owner[last]) == repr(value):
        return text
    for owner, last in (holder(expected, reader) for reader in readers(nodes, key)):
        owner[last] = value
    for spelling in spellings(written, value):
        edited = splice(text, node.start_mark.index, node.end_mark.index, spelling)
        if reads_as(edited, expected):
            return edited
    raise PipelineError(f"{key} = {written}: this cannot be written in one line; edit {PARAMS} by hand")


def holder(values: dict, key: str) -> tuple[dict, str]:
    """The section that holds a dotted key, and the key's name in it."""
    *above, last = key.split(".")
    return reduce(dict.__getitem__, above, values), last


def readers(nodes: dict[str, Any], key: str) -> list[str]:
    """The keys that an edit of `key` changes: itself, and those of sections that take it over by `<<`."""
    first, *others = [name for name, node in nodes.items() if node is nodes[key]]
    if first != key:
        section, _, last = key.rpartition(".")
        raise PipelineError(f"{key} is that of {first}: set it there, or write {last} into {section} in {PARAMS}")
    return [first, *others]


def parse(key: str, written: str) -> Any:
    """VALUE as YAML; a mapping would make a section of a value."""
    try:
        value = load(written) if written else ""
    except YAMLError as error:
        raise PipelineError(f"{key} = {written}: not a YAML value: {' '.join(str(error).split())}") from None
    if isinstance(value, (dict, set)):
        raise PipelineError(f"{key} = {written}: a mapping, where a value or a list is expected")
    return value


def load(text: str) -> Any:
    """YAML as the stages read it."""
    return YAML(typ="safe").load(text)


def reads_as(text: str, expected: Any) -> bool:
    """Whether YAML means exactly this; 1, 1.0 and true differ."""
    try:
        return repr(load(text)) == repr(expected)
    except YAMLError:
        return False


def find(leaves: dict[str, Any], key: str) -> Any:
    """The YAML node of a key's value, which knows its place in the text."""
    if key in leaves:
        return leaves[key]
    below = [name for name in leaves if name.startswith(f"{key}.")]
    if below:
        raise PipelineError(f"{key} is a section: set {', '.join(below)}")
    alike = [name for name in leaves if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = [*alike, *(name for name in get_close_matches(key, leaves, cutoff=0.5) if name not in alike)][:5]
    raise PipelineError(f"{key}: {PARAMS} has no such key{'; it has ' + ', '.join(near) if near else ''}")


def leaf_nodes(text: str, path: Path = PARAMS) -> Iterator[tuple[str, Any]]:
    """Every dotted key that holds a value, with the value's node, which sections that take it over by `<<` share."""

    def walk(node: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, MappingNode):
            yield ".".join(above), node
            return
        for name, value in members(node).items():
            yield from walk(value, (*above, name))

    try:
        yield from walk(YAML(typ="safe").compose(text), ())  # in C, 8 times as fast as the default
    except YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def members(mapping: Any) -> dict[str, Any]:
    """The nodes of a mapping by name, with those that it takes over by `<<` where it has none of its own."""
    own = {name.value: value for name, value in mapping.value}
    taken = own.pop("<<", None)
    bases = taken.value if isinstance(taken, SequenceNode) else [taken] if taken else []
    return reduce(lambda found, base: {**members(base), **found}, bases, own)


def spellings(written: str, value: Any) -> list[str]:
    """Ways to write a value in one line, the nicest first: a number as it was given, a list with spaces."""
    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = True, sys.maxsize
    yaml.dump(value, stream)
    dumped = stream.getvalue().removesuffix("\n").removesuffix("\n...")
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    as_given = not isinstance(value, (list, dict)) and written and "#" not in written and "\n" not in written
    return [*([written] if as_given else []), dumped, quoted]


def splice(text: str, start: int, end: int, new: str) -> str:
    """`new` in the place of text[start:end]; a comment behind it keeps its column as far as there is room."""
    rest = text[end:]
    if gap := re.match(" +(?=#)", rest):
        rest = " " * max(1, len(gap[0]) + end - start - len(new)) + rest[gap.end() :]
    return text[:start] + new + rest


def differing(old: str, new: str) -> dict[str, tuple[str, str]]:
    """The dotted keys whose values differ between two params files, with both as they are written."""
    written = [{key: text[node.start_mark.index : node.end_mark.index] for key, node in leaf_nodes(text)}
               for text in (old, new)]  # fmt: skip
    return {key: (value, written[1][key]) for key, value in written[0].items() if value != written[1][key]}


def replace_if_possible(text: str) -> None:
    """Write params.yaml, all at once, if the stages accept every value."""
    repair.write(ASIDE, text)
    try:
        refuse_impossible(ASIDE)
        shutil.copymode(PARAMS, ASIDE)
        os.replace(ASIDE, PARAMS)
    finally:
        ASIDE.unlink(missing_ok=True)


def refuse_impossible(path: Path) -> None:
    """`PipelineError` with what stages/check.py says of a params file."""
    if not Path("stages/check.py").is_file():
        return
    command = [sys.executable, "-m", "stages.check", "--params", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.replace(f"error: {path}: ", "  ").rstrip()
        raise PipelineError(f"{PARAMS} is left as it was, since this is impossible:\n{said}")


def effect(before: Outlook, after: Outlook, keys: set[str]) -> list[str]:
    """What an edit of `keys` makes run, in lines."""
    readers = {name for name, read in after.reads.items() if {*read} & {part for key in keys for part in prefixes(key)}}
    other = {name for name, why in after.reasons.items() if why != before.reasons.get(name)}
    direct = readers & ({*after.reasons} | after.unknown) | other  # other: what dvc.yaml makes of a value
    affected = reach(direct - after.frozen(), after.downstream())
    already = before.late() & after.late()
    width = max(map(len, affected), default=0)
    lines = [f"  {name:{width}}  {'(stale before) ' * (name in already)}{node.desc}"[:COLUMNS].rstrip()
             for name, node in after.nodes.items() if name in affected]  # fmt: skip
    title = (
        "`semtok run` will run, or restore where DVC has seen these values:" if lines else "No stage reruns for this."
    )
    notes = {
        "up to date again": before.late() - after.late() & {*after.nodes},
        "no longer in the pipeline": {*before.nodes} - {*after.nodes},
        "frozen, so it does not run though it reads this (dvc unfreeze)": readers & after.frozen(),
        "running with the old value, so its result will not be recorded": readers & {*after.running},
    }
    lines += [f"{what}: {', '.join(sorted(names))}" for what, names in notes.items() if names]
    others = len(already - affected)
    return [title, *lines, *([f"{others} other stages were stale before this edit"] if others else [])]
