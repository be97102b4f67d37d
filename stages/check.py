"""Is every value of params.yaml possible? Every section that a stage of dvc.yaml reads, against its schema.

Run:    python -m stages.check [--params params.yaml]
Expect: nothing and status 0, or a line per impossible, missing or unknown value and status 2; a second.

A section of a tokenizer, decoder or generator that no list names is not checked. A value that is impossible only for
certain artifacts is refused by the stage that reads them.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.codebook import params as codebook
from stages.core.errors import UserError
from stages.core.params import Machine, Section, load, load_list
from stages.data.params import Params as Data
from stages.decoder import params as decoder
from stages.encoder.params import EncoderParams, PretrainParams
from stages.evaluate.params import ClassifierParams, GenerationParams, ReconstructionParams, ReferenceParams
from stages.features.params import Params as Features
from stages.generator import params as generator
from stages.studies import params as studies
from stages.tokens.params import Params as Tokens

ROOT = Path(__file__).parents[1]
PIPELINE, PRETRAIN = ROOT / "dvc.yaml", ROOT / "pretrain.yaml"
Check = Callable[[], object]


def check_sampling(name: str, path: Path) -> None:
    """The section samples.<name>, against the schema of its generator's kind."""
    generator.load_sampling(name, generator.load_params(name, path).training.kind, path)


SCHEMAS: dict[str, type[Section]] = {  # section -> schema
    "machine": Machine,
    "data": Data,
    "encoder": EncoderParams,
    "features": Features,
    "tokens": Tokens,
    "generator.model": generator.Model,
    "samples.draws": generator.Draws,
    "classifier": ClassifierParams,
    "reference": ReferenceParams,
    "reconstruction": ReconstructionParams,
    "generation": GenerationParams,
    **studies.SECTIONS,
}
NAMED: dict[str, Callable[[str, Path], object]] = {  # section with named subsections -> check of one of them
    "codebook": codebook.load_params,
    "decoder": decoder.load_params,
    "generator": generator.load_params,
    "samples": check_sampling,
}


def errors_in(path: Path) -> list[str]:
    """All errors in the params file at `path`, one line each."""
    params = read_yaml(path)
    stages = read_yaml(PIPELINE)["stages"]
    given = [name.strip("${}") for stage in stages.values() for name in stage.get("matrix", {}).values()]
    lists = dict.fromkeys(name for name in given if "." not in name)
    checks: list[Check] = [
        *(partial(check_names, key, params, path) for key in lists),
        *(partial(check_member_names, name, stage, params, path) for name, stage in stages.items()),
        *(partial(check_section, section, path) for section in dict.fromkeys(["machine", *sections(stages, params)])),
        partial(check_pixel_tokenizers, path),
        *(partial(load, name, PretrainParams, PRETRAIN) for name in params.get("pretrained") or []),
        partial(check_owners, params, stages, path),
    ]
    return list(dict.fromkeys(line for check in checks for line in refusals(check)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary; `UserError` if it holds something else."""
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with values")
    return content


def refusals(check: Check) -> list[str]:
    """The lines of the `UserError` that a check raises; empty if it raises none."""
    try:
        check()
    except UserError as error:
        return str(error).splitlines()
    return []


def value_at(params: dict[str, Any], dotted: str) -> Any:
    """The value under a dotted key, None where there is none."""
    node: Any = params
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def items(stage: dict[str, Any], params: dict[str, Any]) -> Iterator[dict[str, str]]:
    """{"item.tokenizer": "kmeans", …} for every member of a stage's matrix."""
    matrix = stage.get("matrix", {})
    lists = [value_at(params, given.strip("${}")) or [] for given in matrix.values()]
    for values in product(*(found if isinstance(found, list) else [] for found in lists)):
        yield {f"item.{key}": str(value) for key, value in zip(matrix, values, strict=True)}


def sections(stages: dict[str, Any], params: dict[str, Any]) -> Iterator[str]:
    """The keys of params.yaml that the stages read, such as codebook.kmeans."""
    for stage in stages.values():
        for key in stage.get("params", []):
            for item in items(stage, params) if isinstance(key, str) else ():
                yield re.sub(r"\$\{([\w.]+)\}", lambda match, item=item: item[match[1]], key)


def check_section(key: str, path: Path) -> None:
    """Check the section that holds `key`; lists of names and the pixel tokenizers have checks of their own."""
    owner, _, rest = key.partition(".")
    if schema := SCHEMAS.get(key) or SCHEMAS.get(owner):
        load(key if key in SCHEMAS else owner, schema, path)
    elif owner in NAMED and rest:
        NAMED[owner](rest.partition(".")[0], path)


def check_names(key: str, params: dict[str, Any], path: Path) -> None:
    """Refuse a list with a name that has no section, or with the same name twice."""
    names = load_list(key, path)
    owner = {"tokenizers": "codebook", "decoders": "decoder", "generators": "generator"}.get(key)
    known = [name for name, one in (params.get(owner) or {}).items() if isinstance(one, dict)] if owner else names
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{path}: {key} = {names}: no {', '.join(unknown)}; {owner} has {', '.join(known)}")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: {key} = {names}: expected different names")


def check_member_names(name: str, stage: dict[str, Any], params: dict[str, Any], path: Path) -> None:
    """Refuse names that give two members of a matrix one name in DVC, which joins them with "-" and does not escape."""
    counts = Counter("-".join(item.values()) for item in items(stage, params))
    if doubled := [member for member, count in counts.items() if count > 1 and len(stage["matrix"]) > 1]:
        lists = ", ".join(given.strip("${}") for given in stage["matrix"].values())
        raise UserError(f"{path}: {lists}: two pairs of names both give {name}@{doubled[0]}; rename one")


def check_pixel_tokenizers(path: Path) -> None:
    """Refuse a decoder in use whose pixel tokenizer is missing, of another kind, or not in use."""
    chosen, lines = decoder.load_pixel_tokenizers(path), []
    for name in load_list("decoders", path):
        if not decoder.KINDS[decoder.load_params(name, path).kind].needs_pixel_tokenizer:
            continue
        if (tokenizer := chosen.get(name)) is None:
            lines.append(f"pixel_tokenizer.{name}: missing; expected the name of a tokenizer of kind {pixel_kinds()}")
        elif tokenizer not in load_list("tokenizers", path):
            lines.append(f"pixel_tokenizer.{name} = {tokenizer!r}: {name} is in use, so add it to `tokenizers`")
        elif not codebook.load_kind(tokenizer, path).pixel:
            lines.append(f"pixel_tokenizer.{name} = {tokenizer!r}: expected a tokenizer of kind {pixel_kinds()}")
    if lines:
        raise UserError("\n".join(f"{path}: {line}" for line in lines))


def pixel_kinds() -> str:
    """The kinds of tokenizers that have a decoder to pixels."""
    return " or ".join(name for name, kind in codebook.KINDS.items() if kind.pixel)


def check_owners(params: dict[str, Any], stages: dict[str, Any], path: Path) -> None:
    """Refuse top-level keys that no stage reads."""
    read = {
        key.partition(".")[0] for stage in stages.values() for key in stage.get("params", []) if isinstance(key, str)
    }
    lists = {
        given.strip("${}").partition(".")[0] for stage in stages.values() for given in stage.get("matrix", {}).values()
    }
    known = read | lists | {"machine"}
    if unread := [key for key in params if key not in known]:
        lines = [f"{path}: {key}: no stage reads it; there is {', '.join(sorted(known))}" for key in unread]
        raise UserError("\n".join(sorted(lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    try:
        errors = errors_in(parser.parse_args().params)
    except UserError as error:
        errors = str(error).splitlines()
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2 if errors else 0)


if __name__ == "__main__":
    main()
