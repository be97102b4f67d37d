"""The points of the study `sampling`: complete sampling settings, from the grids in studies/params.yaml."""

import hashlib
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.core.params import impossible, load
from stages.evaluate.params import Inputs as Evaluated
from stages.generator.alternating_params import load_sampling
from stages.generator.params import Sampling
from stages.studies.params import SamplingStudy

REAL_CODES = "real_codes"  # share of the codes that are those of val images; 0: none, of the same images' classes


@dataclass(frozen=True)
class Inputs(Evaluated):
    """Artifacts of real images, and the generator with what its codes need."""

    codebook: Path
    tokens: Path
    generator: Path


@dataclass(frozen=True)
class Point:
    """Complete settings, and the share of real codes; None: samples of the classes in `draws`."""

    settings: Sampling
    real_codes: float | None

    @property
    def key(self) -> str:
        """16 hex digits, of the settings alone."""
        known = json.dumps([self.settings.model_dump(), self.real_codes], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()[:16]


Grid = list[tuple[dict[str, Any], Point]]  # what differs from the generator's own settings, in the order of the lists


def load_grids(name: str, kind: str, path: Path = Path("params.yaml")) -> dict[str, Grid]:
    """The grids of the generator `name` by name; `UserError` for settings that its kind does not have."""
    own, grids = load_sampling(name, kind, path), load("sampling", SamplingStudy, path).grids.get(name, {})
    return {grid: points_of(f"sampling.grids.{name}.{grid}", lists, own) for grid, lists in grids.items()}


def points_of(section: str, lists: dict[str, list[Any]], own: Sampling) -> Grid:
    """Every combination of the values in `lists`, the last one changing fastest."""
    for setting, values in lists.items():
        if not values or len({json.dumps(value) for value in values}) < len(values):
            raise impossible(f"{section}.{setting}", values, "expected one or more different values")
    if not lists:
        raise impossible(section, lists, "expected settings with lists of values")
    changes = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    return [(one, point_of(section, one, own)) for one in changes]


def point_of(section: str, changes: dict[str, Any], own: Sampling) -> Point:
    """One point; `UserError` for an unknown setting or an impossible value."""
    others = {name: value for name, value in changes.items() if name != REAL_CODES}
    real = changes.get(REAL_CODES)
    if real is not None and not (isinstance(real, int | float) and 0 <= real < 1):
        raise impossible(f"{section}.{REAL_CODES}", real, "expected shares from 0 to less than 1")
    try:
        return Point(type(own)(**{**own.model_dump(), **others}), None if real is None else float(real))
    except ValidationError as error:
        first = error.errors()[0]
        allowed = f"{first['msg'][0].lower()}{first['msg'][1:]}; the settings are "
        allowed += ", ".join([*type(own).model_fields, REAL_CODES])
        raise impossible(f"{section}.{first['loc'][0]}", first["input"], allowed) from None
