"""What the stages left under reports/: metrics, curves and pictures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import UserError

Series = tuple[list[float], list[float]]  # steps, values
TRAINED = ("pretrain", "codebook", "decoder", "generator")


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


def read_named(folder: Path) -> dict[str, dict[str, Any]]:
    """{name of a subfolder: its metrics}, sorted by name."""
    found = {path.parent.name: read_metrics(path.parent) for path in sorted(folder.glob("*/metrics.json"))}
    return {name: metrics for name, metrics in found.items() if metrics is not None}


def read_evaluations(reports: Path) -> dict[str, dict[str, Any]]:
    """The evaluations by name; a report without any has nothing to say."""
    found = read_named(reports / "evaluate")
    if not found:
        raise UserError(f"{reports / 'evaluate'}: no <name>/metrics.json in there. Run `dvc repro evaluate` first.")
    return found


def read_runs(reports: Path) -> list[Run]:
    """Every training that left curves, in the order of the pipeline."""
    folders = [path.parent.parent for stage in TRAINED for path in sorted((reports / stage).glob("**/plots/metrics"))]
    return [read_run(reports, folder) for folder in folders]


def read_run(reports: Path, folder: Path) -> Run:
    """The curves and the last picture of one training."""
    curves: dict[str, dict[str, Series]] = {}
    root = folder / "plots" / "metrics"
    for path in sorted(root.glob("**/*.tsv")):
        stem, split = split_name(path.relative_to(root).with_suffix("").as_posix())
        curves.setdefault(stem, {})[split] = next(iter(read_tsv(path).values()))
    pictures = sorted((folder / "pictures").glob("*.png"))
    return Run(folder.relative_to(reports).as_posix(), curves, pictures[-1] if pictures else None)


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
