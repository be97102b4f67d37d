"""Trainings that differ by their seeds alone are one configuration. They are found by comparing the sections with which
they ran, as dvc.lock records them, never by their names.

A training without a record stands alone. One whose sections equal another's in the seeds, too, is the same training
under a second name and is left out.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stages.report.gather import Evaluation, Reports

SEED = "seed"


@dataclass(frozen=True)
class Training:
    """The names of a tokenizer, a decoder and, for samples, a generator."""

    tokenizer: str
    decoder: str
    generator: str = ""

    @property
    def name(self) -> str:
        """As in the report's tables."""
        return ", ".join(filter(None, [f"{self.tokenizer}-{self.decoder}", self.generator]))


@dataclass(frozen=True)
class Configuration:
    """Trainings of one tokenizer, decoder and, for samples, generator, in the order of the lists in params.yaml."""

    trainings: list[Training]

    @property
    def first(self) -> Training:
        """The training that gives the configuration its name."""
        return self.trainings[0]

    @property
    def name(self) -> str:
        """That of the first training."""
        return self.first.name


def configurations(reports: Reports, evaluations: dict[str, Evaluation]) -> list[Configuration]:
    """All evaluated pairs of tokenizer and decoder, and after each its generators."""
    tokenizers = firsts({one.tokenizer: tokenizer_section(reports, one.tokenizer) for one in evaluations.values()})
    decoders = firsts({one.decoder: decoder_section(reports, one.decoder) for one in evaluations.values()})
    drawn = [name for one in evaluations.values() for name in one.generators]
    generators = {"": "", **firsts({name: generator_section(reports, name) for name in drawn})}
    found: dict[Training, list[Training]] = {}
    for one in evaluations.values():
        for generator in ["", *one.generators]:
            names = (one.tokenizer, one.decoder, generator)
            maps = zip((tokenizers, decoders, generators), names, strict=True)
            if None not in (group := [known.get(name) for known, name in maps]):
                found.setdefault(Training(*map(str, group)), []).append(Training(*names))
    return [Configuration(trainings) for trainings in found.values()]


def tokenizer_section(reports: Reports, name: str) -> Any:
    """The values with which a tokenizer was trained; None without a record."""
    return reports.params.get(f"codebook.{name}")


def decoder_section(reports: Reports, name: str) -> Any:
    """Those of a decoder, with the name of its pixel tokenizer."""
    section = reports.params.get(f"decoder.{name}")
    return section and [section, (reports.params.get("pixel_tokenizer") or {}).get(name)]


def generator_section(reports: Reports, name: str) -> Any:
    """Those of a generator and of its samples, with the name of its text encoder."""
    section = reports.params.get(f"generator.{name}")
    captions = reports.params.get("captions") or {}
    return section and [section, reports.params.get(f"samples.{name}"), captions.get(name)]


def firsts(sections: dict[str, Any]) -> dict[str, str]:
    """{name: the first one whose section differs by seeds alone}, without second names of a training."""
    found: dict[str, str] = {}
    alike: dict[str, str] = {}
    seen: set[str] = set()
    for name, section in sections.items():
        whole = json.dumps(section if section else name, sort_keys=True)
        if whole not in seen:
            seen.add(whole)
            found[name] = alike.setdefault(json.dumps(seedless(section) if section else name, sort_keys=True), name)
    return found


def seedless(values: Any) -> Any:
    """The same values without those of the name `seed`, at any depth."""
    if isinstance(values, dict):
        return {key: seedless(value) for key, value in values.items() if key != SEED}
    return [*map(seedless, values)] if isinstance(values, Iterable) and not isinstance(values, str) else values
