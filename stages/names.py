"""Names in params.yaml, studies/params.yaml and pretrain.yaml: which are possible, and which members of dvc.yaml's
matrices they give.

DVC puts the names of lists into shell commands, paths and the names of stages. The stage `code`, on which all others
depend, therefore refuses impossible ones before any of them reaches a shell.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from stages.core import UserError
from stages.core.params import NAME, NAME_RULE, WEIGHTS, file_of, load_file, load_list, parts_of, shown

PARAMS = "params.yaml"
OWNERS = {  # list -> sections that it names
    "tokenizers": "codebook", "decoders": "decoder", "generators": "generator", "alternating_generators": "generator",
    "text_encoders": "text", "caption_checkers": "caption_checker", "recognition_tasks": "recognition",
    "recognition_networks": "recognition_network",
}  # fmt: skip
MAY_BE_EMPTY = (
    "alternating_generators", "text_encoders", "caption_checkers", "recognition_tasks", "recognition_networks"
)  # fmt: skip
NAMED = (
    *dict.fromkeys(OWNERS.values()),
    "samples",
    "weights",
    "pixel_tokenizer",
    "captions",
)  # sections whose keys are names that users give


def read_stages(pipeline: Path) -> dict[str, Any]:
    """The stages of a dvc.yaml and of the studies' beside it, as they are written."""
    found: dict[str, Any] = {}
    for file in parts_of(pipeline):
        if not isinstance(stages := load_file(file).get("stages"), dict):
            raise UserError(f"{file}: expected stages")
        found |= stages
    return found


def lists_of(stages: dict[str, Any]) -> list[str]:
    """The keys of params that matrices run over, such as `tokenizers` and `ablation.dims`."""
    given = [name.strip("${}") for stage in stages.values() for name in stage.get("matrix", {}).values()]
    return [*dict.fromkeys(given)]


def value_at(params: dict[str, Any], dotted: str) -> Any:
    """The value under a dotted key, None where there is none."""
    node: Any = params
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def items(stage: dict[str, Any], params: dict[str, Any]) -> Iterator[dict[str, str]]:
    """{"item.tokenizer": "kmeans", …} for every member of a stage's matrix; impossible names are left out."""
    matrix = stage.get("matrix", {})
    lists = [value_at(params, given.strip("${}")) for given in matrix.values()]
    possible = [[str(one) for one in found if NAME.fullmatch(str(one))] for found in lists if isinstance(found, list)]
    for values in product(*possible) if len(possible) == len(matrix) else ():
        yield {f"item.{key}": value for key, value in zip(matrix, values, strict=True)}


def read_by(stage: dict[str, Any]) -> Iterator[str]:
    """The keys of params.yaml and studies/params.yaml that a stage reads, as dvc.yaml has them."""
    for entry in stage.get("params", []):
        files = {PARAMS: [entry]} if isinstance(entry, str) else entry
        yield from (key for file, keys in files.items() if Path(file).name == PARAMS for key in keys)


def sections(stages: dict[str, Any], params: dict[str, Any]) -> Iterator[str]:
    """The keys of params that the stages read, such as codebook.kmeans."""
    for stage in stages.values():
        for key in read_by(stage):
            for item in items(stage, params):
                yield re.sub(r"\$\{([\w.]+)\}", lambda match, item=item: item[match[1]], key)


def absent(params: dict[str, Any]) -> list[str]:
    """The sections that lists name and that are not there, such as codebook.kmean."""
    listed = [(owner, value_at(params, key)) for key, owner in OWNERS.items()]
    sections = [f"{owner}.{name}" for owner, found in listed if isinstance(found, list) for name in found]
    return [section for section in sections if value_at(params, section) is None]


def check_list(key: str, params: dict[str, Any], path: Path) -> None:
    """Refuse a list with impossible or equal names, or with a name that has no section."""
    names, owner = load_list(key, path, key in MAY_BE_EMPTY), params.get(OWNERS.get(key, ""))
    known = [str(name) for name, one in owner.items() if isinstance(one, dict)] if isinstance(owner, dict) else []
    if unknown := [name for name in names if key in OWNERS and name not in known]:
        has = f"{OWNERS[key]} has {', '.join(filter(NAME.fullmatch, known))}"
        raise UserError(f"{file_of(key, path)}: {key} = {shown(names)}: no {', '.join(unknown)}; {has}")


def check_owners(params: dict[str, Any], stages: dict[str, Any], path: Path) -> None:
    """Refuse top-level keys that no stage reads."""
    read = {key.partition(".")[0] for stage in stages.values() for key in read_by(stage)}
    known = {"machine", WEIGHTS} | read | {key.partition(".")[0] for key in lists_of(stages)}
    if unread := [key for key in params if key not in known]:
        there = f"no stage reads it; there is {', '.join(sorted(known))}"
        raise UserError("\n".join(sorted(f"{file_of(str(key), path)}: {key}: {there}" for key in unread)))


def check_members(name: str, stage: dict[str, Any], params: dict[str, Any], path: Path) -> None:
    """Refuse names that give two members of a matrix one name in DVC, which joins them with "-" and does not escape."""
    members = {tuple(value.casefold() for value in item.values()) for item in items(stage, params)}
    counts = Counter("-".join(member) for member in members)
    if doubled := sorted(member for member, count in counts.items() if count > 1):
        lists = ", ".join(given.strip("${}") for given in stage["matrix"].values())
        raise UserError(f"{path}: {lists}: two pairs of names both give {name}@{doubled[0]}; rename one")


def check_keys(above: str, section: Any, path: Path) -> None:
    """Refuse impossible names of a section's keys, also of those not in use: a list may take them up at any time."""
    names = [*section] if isinstance(section, dict) else []
    if bad := [shown(name) for name in names if not isinstance(name, str) or not NAME.fullmatch(name)]:
        raise UserError(f"{path}: {above}{', '.join(bad)}: {NAME_RULE}")
