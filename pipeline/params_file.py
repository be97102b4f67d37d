"""Edit a params.yaml by ruamel.yaml's round trip, which keeps comments, quotes and number formats. Keys whose values do
not change keep their lines as they were laid out.

A preset is a YAML file of the same sections. Its values are laid over params.yaml; what params.yaml lacks is added. A
section with the key `base` is a copy of the section of that name beside it, with its other values laid over the copy:

    codebook:
      vq_rate: {base: vqgan, num_codes: 24}      # all of codebook.vqgan, but 24 codes

The copy is taken after all other values are set, whatever their order. `base` itself is not written. YAML anchors,
aliases and merges in a preset are resolved.
"""

import io
import re
import sys
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from pipeline.errors import PipelineError

COLUMNS, WRAP = 120, 16  # ruamel wraps lines behind WRAP characters less, which leaves room for a key
BASE = "base"


def parse(text: str, what: str) -> Any:
    """YAML with comments and formats; `PipelineError` names `what` it was read from."""
    try:
        tree = round_trip().load(text)
        repr(tree)  # else a hexadecimal number of thousands of digits would fail when it is shown
        return tree
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        why = " ".join(str(error).partition("To suppress this check")[0].split())
        raise PipelineError(f"{what[:COLUMNS]}: not valid YAML: {why}") from None


def parse_sections(text: str, what: str) -> CommentedMap:
    """The same for a file, which must hold sections."""
    if not isinstance(tree := parse(text, what), dict):
        raise PipelineError(f"{what}: expected sections with values")
    return tree


def render(old: Any, new: Any, text: str) -> str:
    """The text of an edited params file. Keys that ruamel writes as before the edit keep the lines of the old text."""
    written, before = split(text), split(dump(old))
    parts = []
    for key, (_, lines) in split(dump(new)).items():
        above, as_laid_out = written.get(key, ("", ""))
        unchanged = key in before and before[key][1] == lines
        parts += [above, as_laid_out if unchanged else lines]
    return "".join(parts)


def dump(tree: Any) -> str:
    """The text that ruamel writes, with long lines wrapped before a key, not behind it; comments stay as they are."""
    stream = io.StringIO()
    round_trip().dump(tree, stream)
    return re.sub(" +$", "", re.sub(r", ([\w-]+): *\n( +)", wrap_before_key, stream.getvalue()), flags=re.M)


def wrap_before_key(found: re.Match[str]) -> str:
    """A key at the end of a line begins the next one, unless it is a word of a comment."""
    line = found.string[: found.start()].rpartition("\n")[2]
    return found[0] if " #" in line else f",\n{found[2]}{found[1]}: "


def split(text: str) -> dict[str, tuple[str, str]]:
    """For every dotted key that begins a line, and "" for the end: comments and empty lines above it, its own lines."""

    def starts(node: Any, above: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, MappingNode) and not node.flow_style:
            for name, value in node.value:
                yield f"{above}{name.value}", name.start_mark.line
                if value.start_mark.line >= name.start_mark.line:  # an alias stands at its anchor
                    yield from starts(value, f"{above}{name.value}.")

    lines = text.splitlines(keepends=True)
    keys = [*starts(YAML(typ="safe").compose(text), ""), ("", len(lines))]
    found, end = {}, 0
    for (key, start), (_, following) in zip(keys, [*keys[1:], keys[-1]], strict=True):
        above = "".join(lines[end:start])
        end = following
        while end > start + 1 and re.match(r"\s*(#|$)", lines[end - 1]):
            end -= 1
        found[key] = (above, "".join(lines[start:end]))
    return found


def round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, COLUMNS - WRAP
    return yaml


def lay_over(section: CommentedMap, values: dict, above: str = "") -> None:
    """Write values into a section of params, adding what it lacks; those with a base come last."""
    derived = {name: value for name, value in values.items() if isinstance(value, dict) and BASE in value}
    for name in [name for name in values if name not in derived]:
        write(section, name, values[name], f"{above}{name}")
    for name in [*derived]:
        derive(section, name, derived, above)


def write(section: CommentedMap, name: str, value: Any, key: str) -> None:
    """Set one value, list or section; equal values keep the text that they have."""
    old = section.get(name)
    if name not in section:
        section[name] = clean_copy(value)
    elif isinstance(old, dict) and isinstance(value, dict):
        if name not in dict(section.non_merged_items()):  # `<<` shares it with another section
            section[name] = clean_copy(old)
        lay_over(section[name], value, f"{key}.")
    elif isinstance(old, dict):
        below = [other for other, _ in leaves(old, f"{key}.")]
        raise PipelineError(f"{key} is a section: set {', '.join(below[:5])}{', …' * (len(below) > 5)}")
    elif isinstance(value, dict):
        raise PipelineError(f"{key} is a value, not a section: it cannot have {', '.join(map(str, value))}")
    elif repr(old) != repr(value):
        section[name] = clean_copy(value)
        if isinstance(section[name], CommentedSeq) and name in section.ca.items:
            section[name].ca.comment = [section.ca.items[name][2], None]


def derive(section: CommentedMap, name: str, derived: dict[str, dict], above: str) -> None:
    """Write the section `name` as a copy of its base, which may be derived itself, with its values laid over it."""
    if name not in derived:  # done, as the base of another one
        return
    values = {**derived.pop(name)}
    base = values.pop(BASE)
    if isinstance(base, str):
        derive(section, base, derived, above)
    if not isinstance(base, str) or not isinstance(section.get(base), dict) or base == name:
        sections = [str(other) for other, value in section.items() if isinstance(value, dict) and other != name]
        raise PipelineError(f"{above}{name}.{BASE} = {base}: no such section; it may be {', '.join(sections)}")
    made = clean_copy(section[base])
    lay_over(made, values, f"{above}{name}.")
    if isinstance(section.get(name), dict):
        prune(section[name], made)
    write(section, name, made, f"{above}{name}")


def prune(old: CommentedMap, new: CommentedMap) -> None:
    """Delete the keys of a section that its new version lacks, or has as a value instead of a section or vice versa."""
    for name in [*old]:
        if name not in new or isinstance(old[name], dict) != isinstance(new[name], dict):
            del old[name]
        elif isinstance(old[name], dict):
            prune(old[name], new[name])


def clean_copy(value: Any, flow: bool = False) -> Any:
    """A copy without comments and anchors, merges resolved, lists in one line; with `flow`, sections too."""
    if isinstance(value, dict):
        made = CommentedMap((name, clean_copy(part, flow)) for name, part in value.items())
        if flow or isinstance(value, CommentedMap) and value.fa.flow_style():
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        made = CommentedSeq(clean_copy(part, flow) for part in value)
        made.fa.set_flow_style()
        return made
    return value


def differences(old: dict, new: dict, above: str = "") -> Iterator[tuple[str, str]]:
    """(key, what changed) for every value that differs, and one for a section that was added or removed."""
    for name in dict.fromkeys([*old, *new]):
        key, then, now = f"{above}{name}", old.get(name), new.get(name)
        if name not in old:
            yield key, f"added: {in_one_line(now)}"
        elif name not in new:
            yield key, "removed"
        elif isinstance(then, dict) and isinstance(now, dict):
            yield from differences(then, now, f"{key}.")
        elif repr(then) != repr(now):
            yield key, f"{in_one_line(then)} -> {in_one_line(now)}"


def in_one_line(value: Any) -> str:
    """A value or a section as YAML in one line, cut off after COLUMNS."""
    yaml, stream = round_trip(), io.StringIO()
    yaml.width = sys.maxsize
    yaml.dump(clean_copy(value, flow=True), stream)
    text = stream.getvalue().removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= COLUMNS else f"{text[: COLUMNS - 1]}…"


def leaves(tree: dict, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key that holds a value or a list, with it."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
