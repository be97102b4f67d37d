"""Is every value of params.yaml possible? Each section against the schema of the stage that reads it.

Run:    python -m stages.check [--params params.yaml]
Expect: nothing and status 0, or a line for every impossible, missing or unknown value and status 2; seconds.

It sees params.yaml alone: what an artefact shows to be impossible, the stage itself refuses.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stages.ablation.cell import Params as Ablation
from stages.anatomy.dissect import Params as Anatomy
from stages.codebook.fit import load_params as load_tokenizer
from stages.core.errors import UserError
from stages.core.loop import Optim
from stages.core.params import Machine, Section, load, load_list
from stages.data.prepare import Params as Data
from stages.decoder.train import load_params as load_decoder
from stages.encoder.fetch import Params as Encoder
from stages.evaluate.score import Params as Evaluate
from stages.features.extract import Params as Features
from stages.generator.settings import SETTINGS
from stages.generator.train import Model
from stages.judge.train import Params as Judge
from stages.palette.pick import load_palettes
from stages.pretrain.train import Params as Pretrain
from stages.probe.linear import Params as Probe
from stages.projection.compare import Params as Projection
from stages.reference.build import Params as Reference
from stages.resolution.measure import Params as Resolution
from stages.samples.draw import Params as Draws
from stages.stability.measure import Params as Stability
from stages.sweep.measure import Params as Sweep
from stages.tokens.encode import Params as Tokens

NAMES = {
    "pretrained": ["digits", "scenes", "scenes-supervised"],
    "generators": [*SETTINGS],
}
PAINTING = ("vqgan", "fsq")  # kinds of tokenizers
OPEN = ("tokenizers", "codebook", "decoders", "decoder", "palette")  # whose names are the user's
SCHEMAS: dict[str, type[Section]] = {
    "machine": Machine,
    "data": Data,
    **{f"pretrain.{name}": Pretrain for name in NAMES["pretrained"]},
    "encoder": Encoder,
    "probe": Probe,
    "features": Features,
    "tokens": Tokens,
    "anatomy": Anatomy,
    "ablation": Ablation,
    "generator.model": Model,
    **{f"generator.{name}": Optim for name in SETTINGS},
    "samples.draws": Draws,
    **{f"samples.{name}": settings for name, settings in SETTINGS.items()},
    "stability": Stability,
    "projection": Projection,
    "judge": Judge,
    "reference": Reference,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "resolution": Resolution,
}


def errors_in(path: Path) -> list[str]:
    """All that is wrong with the params file at `path`, a line each."""
    tokenizers, decoders = list(section_of(path, "codebook")), list(section_of(path, "decoder"))
    checks = [
        partial(check_names, "tokenizers", tokenizers, path),
        *(partial(load_tokenizer, name, path) for name in tokenizers),
        partial(check_names, "decoders", decoders, path),
        *(partial(load_decoder, name, path) for name in decoders),
        partial(check_palettes, path),
        *(partial(check_names, key, known, path) for key, known in NAMES.items()),
        *(partial(load, section, cls, path) for section, cls in SCHEMAS.items()),
        partial(check_sections, path),
    ]
    return list(dict.fromkeys(line for check in checks for line in refusals(check)))


def refusals(check: Callable[[], object]) -> list[str]:
    """The lines of the `UserError` that a check raises, if it does."""
    try:
        check()
    except UserError as error:
        return str(error).splitlines()
    return []


def check_names(key: str, known: list[str], path: Path) -> None:
    """Refuse a list of names in which one is unknown or stands twice."""
    names = load_list(key, path)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{path}: {key} = {names}: no {', '.join(unknown)}; there is {', '.join(known)}")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: {key} = {names}: expected different names")


def check_palettes(path: Path) -> None:
    """Refuse palettes of no decoder or with a tokenizer that does not paint, and decoders in use that lack theirs."""
    palettes, decoders = load_palettes(path), kinds_of(path, "decoder")
    painting = [name for name, kind in kinds_of(path, "codebook").items() if kind in PAINTING]
    lines = [f"palette.{name}: no such decoder; there is {', '.join(decoders)}" for name in {*palettes} - {*decoders}]
    for name, tokenizer in palettes.items():
        if tokenizer not in painting:
            lines.append(f"palette.{name} = {tokenizer!r}: expected a tokenizer that paints: {', '.join(painting)}")
    for name in load_list("decoders", path):
        if decoders.get(name) == "render" and name not in palettes:
            lines.append(f"palette.{name}: missing; {name} needs a tokenizer that paints: {', '.join(painting)}")
        if name in palettes and palettes[name] not in load_list("tokenizers", path):
            lines.append(f"palette.{name} = {palettes[name]!r}: {name} is in use, so put this into `tokenizers`, too")
    if lines:
        raise UserError("\n".join(f"{path}: {line}" for line in sorted(lines)))


def kinds_of(path: Path, section: str) -> dict[str, Any]:
    """{name: kind} of a section whose names are the user's."""
    return {name: one.get("kind") for name, one in section_of(path, section).items() if isinstance(one, dict)}


def check_sections(path: Path) -> None:
    """Refuse sections that no stage reads."""
    params = load_all(path)
    owners = {name.split(".")[0] for name in SCHEMAS} | {*NAMES, *OPEN}
    lines = [f"{path}: {key}: no stage reads it; there is {', '.join(sorted(owners))}" for key in {*params} - owners]
    for owner in {name.split(".")[0] for name in SCHEMAS if "." in name} & {*params}:
        known = [name.split(".")[1] for name in SCHEMAS if name.startswith(f"{owner}.")]
        parts = section_of(path, owner)
        lines += [
            f"{path}: {owner}.{key}: no stage reads it; {owner} has {', '.join(known)}" for key in {*parts} - {*known}
        ]
    if lines:
        raise UserError("\n".join(sorted(lines)))


def section_of(path: Path, name: str) -> dict:
    """A section of sections; empty where it cannot be read."""
    section = load_all(path).get(name)
    return section if isinstance(section, dict) else {}


def load_all(path: Path) -> dict:
    """The whole file; empty where it cannot be read, which every section's check says too."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        params = YAML(typ="safe").load(path)
    except (OSError, YAMLError):
        return {}
    return params if isinstance(params, dict) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    errors = errors_in(parser.parse_args().params)
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2 if errors else 0)


if __name__ == "__main__":
    main()
