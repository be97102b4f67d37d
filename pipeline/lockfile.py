"""The text of a dvc.lock: is it whole, and what can be saved of one that was cut off?

DVC writes the file in place, old stages in their old order and new ones at the end, so a cut loses the last entries.
"""

from __future__ import annotations

import re
from typing import Any

HEAD = "schema: '2.0'\nstages:\n"


def flaw(text: str, kept: str, stages: set[str]) -> str:
    """Why a dvc.lock is not whole, empty if it is; `kept` and `stages` as in `loss`."""
    if not text.strip():
        return "is empty"
    if not text.endswith("\n") or not is_whole(text):
        return "is cut off or damaged"
    return loss(text, kept, stages)


def loss(text: str, kept: str, stages: set[str]) -> str:
    """The last lines of `kept`, an earlier dvc.lock, that this readable one lacks; `stages` are those of dvc.yaml."""
    entries, before = entries_of(text), entries_of(kept)
    names, known = [*entries], [name for name in before if name.split("@")[0] in stages]
    if len(names) < len(known) and names == known[: len(names)]:
        return f"ends before {', '.join(known[len(names) :])}"
    return f"ends within {names[-1]}" if names and ends_within(entries, before) else ""


def ends_within(entries: dict[str, str], before: dict[str, str]) -> bool:
    """Whether the last entry is only the first lines of an earlier one."""
    last, text = [*entries.items()][-1]
    return before.get(last, text) != text and before[last].startswith(text)


def merge(text: str, base: str) -> str:
    """A whole dvc.lock of the entries of `base` and, before those, the whole ones of `text`; empty if there is none."""
    own, others = entries_of(text), entries_of(base)
    if own and (not text.endswith("\n") or ends_within(own, others)):
        own.popitem()
    entries = others | {name: entry for name, entry in own.items() if is_whole(HEAD + entry)}
    return HEAD + "".join(entries.values()) if entries else ""


def entries_of(text: str) -> dict[str, str]:
    """The lines of each stage, by its name."""
    parts = re.split(r"^(?=  \S)", text.partition("\nstages:\n")[2], flags=re.M)
    return {part.partition(":\n")[0].strip(" '\""): part for part in parts if part.strip()}


def outputs_of(text: str) -> list[str]:
    """The paths that the stages of a whole dvc.lock write."""
    stages = (parse(text) or {}).get("stages", {})
    return [out["path"] for entry in stages.values() for out in entry.get("outs", [])]


def is_whole(text: str) -> bool:
    """Whether DVC can read this as a dvc.lock."""
    content = parse(text)
    if not isinstance(content, dict) or content.get("schema") != "2.0":
        return False
    stages = content.get("stages")
    return isinstance(stages, dict) and all(map(is_entry, stages.values()))


def is_entry(entry: Any) -> bool:
    """Whether this is what DVC records of a stage."""
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), (str, list)):
        return False
    facts = [entry.get("deps", []), entry.get("outs", [])]
    if not isinstance(entry.get("params", {}), dict) or not all(isinstance(part, list) for part in facts):
        return False
    return all(is_file(fact) for part in facts for fact in part)


def is_file(fact: Any) -> bool:
    """Whether this is a path, and its hash if it has one."""
    if not isinstance(fact, dict) or not isinstance(fact.get("path"), str):
        return False
    return "hash" not in fact or isinstance(fact.get(fact["hash"]), str)


def parse(text: str) -> Any:
    """YAML as DVC reads it; None where it is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        return None
