"""Runs side by side: which params differ, their numbers with spreads and differences from the first run, pictures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

from stages.core import UserError
from stages.core.artifact import write_atomically
from stages.core.params import load_sections
from stages.report.contenders import is_clear, ranking_keys
from stages.report.gather import Evaluation, Metrics, Reports, read_evaluations, read_reports
from stages.report.origin import flat
from stages.report.page import environment
from stages.report.summary import Summary, summary
from stages.report.tables import Table, differences, protocol_of, rounded, short

Key = tuple[str, str]  # names of tokenizer-decoder and generator, the latter empty for reconstructions
Measured = tuple[Metrics, dict[str, Any]]  # metrics and their protocol
NO_VALUE, LESS, MORE = "–", "↓", "↑"
TITLES = {
    "psnr_db": f"PSNR, dB {MORE}",
    "class_accuracy": f"class accuracy {MORE}",
    "near_copies[pixel]": f"near copies {LESS}",
    "val_bits_per_image": f"bits per image {LESS}",
}


@dataclass(frozen=True)
class Run:
    """An experiment, a commit or the workspace: what git says of it, and what its stages reported."""

    facts: dict[str, Any]
    reports: Reports
    evaluations: dict[str, Evaluation]
    params: dict[str, Any]  # by section or key, as DVC's record has them, else params.yaml's

    @property
    def name(self) -> str:
        """As the user called it."""
        return self.facts["name"]

    @property
    def summary(self) -> Summary:
        """What the first screen of its own report shows."""
        return summary(self.reports, self.evaluations)

    def measured(self) -> dict[Key, Measured]:
        """Metrics and protocol of all reconstructions and samples."""
        found: dict[Key, Measured] = {}
        for name, one in self.evaluations.items():
            made = one.reconstruction
            found[name, ""] = made["reconstruction"], protocol_of(made, "reconstruction")
            for generator in one.generators:
                drawn = one.generation[generator]
                bits = {key: value for key, value in drawn.get("likelihood", {}).items() if "bits_per_image" in key}
                found[name, generator] = {**drawn, **bits}, protocol_of(one.generation, generator)
        return found


def read_runs(folder: Path) -> list[Run]:
    """The runs in the folders of a folder, in order; `UserError` names a run without metrics."""
    return [read_run(one) for one in sorted(folder.iterdir())]


def read_run(folder: Path) -> Run:
    """One run."""
    facts, params = json.loads((folder / "run.json").read_text()), folder / "params.yaml"
    try:
        reports = read_reports(folder / "reports", folder / "dvc.yaml", params, folder / "dvc.lock")
        evaluations = read_evaluations(reports)
    except UserError as error:
        raise UserError(f"{facts['name']}: {str(error).replace(f'{folder}/', '')}") from None
    except KeyError as error:
        why = f"its dvc.yaml has no stage {error}: it was made by another version of semtok"
        raise UserError(f"{facts['name']}: {why}") from None
    return Run(facts, reports, evaluations, reports.params or load_sections(params))


def write_comparison(runs: list[Run], out: Path) -> None:
    """Write the page `out`, and print what it shows."""
    notes = list(notes_of(runs))
    html = environment().get_template("compare.html").render(
        runs=runs, summaries=[run.summary for run in runs], params=params_table(runs), numbers=numbers_table(runs),
        notes=notes,
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, html.encode())
    print("\n".join([f"compared {', '.join(run.name for run in runs)}: {out}", *notes]))


def notes_of(runs: list[Run]) -> Iterator[str]:
    """What keeps runs from being compared, and what is missing."""
    first = runs[0]
    for run in runs[1:]:
        if run.reports.images != first.reports.images:
            yield f"{run.name} was measured on other images than {first.name}: their numbers are not compared."
    for run in runs:
        if run.facts["missing"]:
            yield f"{run.name}: {run.facts['missing']} pictures are not in DVC's cache here."
        if stale := list(run.reports.stale()):
            yield f"{run.name}: {', '.join(stale)} are left out, being of other images than its other reports."


def params_table(runs: list[Run]) -> Table:
    """A row for each param that differs; one for a section that some run does not use."""
    keys = dict.fromkeys(key for run in runs for key in run.params)
    rows = [row for key in sorted(keys) for row in rows_of(key, [run.params.get(key) for run in runs])]
    return Table(["parameter", *(run.name for run in runs)], rows)


def rows_of(key: str, values: list[Any]) -> Iterator[list[str]]:
    """Rows of one section or key: none if all runs agree."""
    if None in values:
        if any(value is not None for value in values):
            yield [key, *map(in_short, values)]
        return
    sides = [flat(value, key) for value in values]
    for name in dict.fromkeys(name for side in sides for name in side):
        if any(side.get(name) != sides[0].get(name) for side in sides):
            yield [name, *(in_short(side[name]) if name in side else NO_VALUE for side in sides)]


def in_short(value: Any) -> str:
    """A value as a cell."""
    if value is None:
        return NO_VALUE
    return f"{len(flat(value))} values" if isinstance(value, dict) else short(str(value))


def numbers_table(runs: list[Run]) -> Table:
    """A row for each number of the summaries, by names of tokenizer, decoder and generator."""
    measured = [run.measured() for run in runs]
    first = runs[0].name
    heads = ["of", "number", *(run.name for run in runs), *(f"{run.name} − {first}" for run in runs[1:])]
    keys = dict.fromkeys(key for one in measured for key in one)
    return Table(heads, [row for key in keys for row in rows_of_numbers(key, [one.get(key) for one in measured])])


def rows_of_numbers(key: Key, sides: list[Measured | None]) -> Iterator[list[str]]:
    """Every number that one of the runs has."""
    for name, title in {name: title for side in sides if side for name, title in titles_of(side[0]).items()}.items():
        cells = [shown(side, name) for side in sides]
        yield [", ".join(filter(None, key)), title, *cells, *(difference(name, sides[0], side) for side in sides[1:])]


def titles_of(metrics: Metrics) -> dict[str, str]:
    """The numbers of a summary among these metrics, with their titles and which way is better."""
    distances = [key for start in ("gfid[", "rfid[") for key in ranking_keys(metrics, start)]
    found = {key: f"{key[0]}FID{key[4:]} {LESS}" for key in distances}
    return found | {key: title for key, title in TITLES.items() if key in metrics}


def shown(side: Measured | None, name: str) -> str:
    """A number with its spread."""
    return rounded(side[0][name], side[0].get(f"{name}_std")) if side and name in side[0] else NO_VALUE


def difference(name: str, one: Measured | None, other: Measured | None) -> str:
    """By how much the other is more than the one, and whether that is beyond the spread; no difference, but the
    reason, where their protocols are not alike."""
    if one is None or other is None or name not in one[0] or name not in other[0]:
        return NO_VALUE
    if unlike := differences(one[1], other[1]):
        return f"not comparable, other protocol: {'; '.join(unlike)}"
    stds = [side[0][f"{name}_std"] for side in (one, other) if f"{name}_std" in side[0]]
    gap, std = other[0][name] - one[0][name], hypot(*stds) if len(stds) == 2 else None
    if not gap:
        return "equal"
    said = f"{'+' if gap > 0 else ''}{rounded(gap, std)}"
    if std is None:
        return f"{said}; spread not measured"
    better = (gap < 0) == titles_of(one[0])[name].endswith(LESS)
    return f"{said}: {'better' if better else 'worse'}" if is_clear(gap, std) else f"{said}: undecided"
