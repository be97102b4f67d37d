"""What the stages left under reports/: metrics, curves and pictures, of the names that params.yaml asks for.

DVC leaves the folders of a name that is taken out of a list. They are of other code or params, and are not read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.params import load_value

Series = tuple[list[float], list[float]]  # steps, values
TRAINED = ("pretrain", "codebook", "decoder", "generator")
MATRICES = {  # stage -> the lists of params.yaml in its matrix of dvc.yaml, a value of each joined by "-" is a name
    "pretrain": ("pretrained",),
    **dict.fromkeys(("codebook", "tokens", "anatomy", "stability"), ("tokenizers",)),
    "ablation": ("ablation.num_codes", "ablation.dims"),
    "palette": ("decoders",),
    **dict.fromkeys(("decoder", "evaluate", "sweep", "resolution"), ("tokenizers", "decoders")),
    **dict.fromkeys(("generator", "samples"), ("tokenizers", "generators")),
}


@dataclass(frozen=True)
class Reports:
    """The folder `root` below which every stage reports, and {stage with a matrix: its names}."""

    root: Path
    names: dict[str, list[str]]

    def __truediv__(self, path: str) -> Path:
        return self.root / path

    def named(self, stage: str) -> dict[str, dict[str, Any]]:
        """{name: its metrics}, of a stage's names that have any."""
        found = {name: read_metrics(self / stage / name) for name in self.names[stage]}
        return {name: metrics for name, metrics in found.items() if metrics is not None}

    def left_out(self) -> list[str]:
        """The folders of other names."""
        folders = [folder for stage in self.names for folder in sorted((self / stage).glob("*/"))]
        return [f"{one.parent.name}/{one.name}" for one in folders if one.name not in self.names[one.parent.name]]


def read_names(params: Path) -> dict[str, list[str]]:
    """{stage with a matrix: its names, sorted}."""
    lists = {key: load_value(key, params) for keys in MATRICES.values() for key in keys}
    members = {stage: product(*(lists[key] for key in keys)) for stage, keys in MATRICES.items()}
    return {stage: sorted("-".join(map(str, values)) for values in found) for stage, found in members.items()}


@dataclass(frozen=True)
class Run:
    """A training: its name, {curve: {"train" or "val": series}} and its last picture if it drew any."""

    name: str
    curves: dict[str, dict[str, Series]]
    picture: Path | None


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """A folder's metrics.json, or None."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}). Run `dvc repro`.") from None


def read_evaluations(reports: Reports) -> dict[str, dict[str, Any]]:
    """The evaluations by name; a report without any has nothing to say."""
    found = reports.named("evaluate")
    if not found:
        names = ", ".join(reports.names["evaluate"])
        raise UserError(f"{reports / 'evaluate'}: no metrics.json of {names}. Run `dvc repro evaluate` first.")
    return found


def read_runs(reports: Reports) -> list[Run]:
    """Every training that left curves, in the order of the pipeline."""
    runs = [read_run(reports, f"{stage}/{name}") for stage in TRAINED for name in reports.names[stage]]
    return [run for run in runs if run.curves]


def read_run(reports: Reports, name: str) -> Run:
    """The curves and the last picture of one training."""
    curves: dict[str, dict[str, Series]] = {}
    folder = reports / name
    root = folder / "plots" / "metrics"
    for path in sorted(root.glob("**/*.tsv")):
        stem, split = split_name(path.relative_to(root).with_suffix("").as_posix())
        curves.setdefault(stem, {})[split] = next(iter(read_tsv(path).values()))
    pictures = sorted((folder / "pictures").glob("*.png"))
    return Run(name, curves, pictures[-1] if pictures else None)


def split_name(name: str) -> tuple[str, str]:
    """A curve's subject and split: "val_loss", "val/loss" and "loss_val" are the val curve of "loss"."""
    found = re.fullmatch(r"(?:(train|val)[_/])?(.+?)(?:[_/](train|val))?", name)
    return (found[2], found[1] or found[3] or "train") if found else (name, "train")


def read_tsv(path: Path) -> dict[str, Series]:
    """A table with a `step` column: {other column: (steps, values)}."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line]
    try:
        place = rows[0].index("step")
        columns = {name: [float(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0])}
    except (ValueError, IndexError):
        raise UserError(
            f"{path}: expected tab-separated numbers below a header with `step`. Run `dvc repro`."
        ) from None
    steps = columns.pop(rows[0][place])
    return {name: (steps, values) for name, values in columns.items()}
