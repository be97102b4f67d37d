"""Metrics, curves and pictures that the stages wrote below reports/, for every name that params.yaml lists.

Stages, matrices and folders are read from dvc.yaml, and from that of the studies beside it. DVC refuses dvc.yaml as a
dependency, so the stage `report` depends on the lists and on the folders instead. Folders of names that are no longer
listed belong to other code or params and are not read.
"""

import json
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.core import UserError
from stages.core.params import load_value, parts_of

Series = tuple[list[float], list[float]]  # steps, values
Metrics = dict[str, Any]
APART = ("pretrain", "classifier", "pca_vs_lda")  # of images of its own, not on the page, of no images


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml by the names of its members; the only member of a stage without a matrix is named ""."""

    items: dict[str, dict[str, str]]  # values in the matrix, such as {"tokenizer": "kmeans"}
    folders: dict[str, Path]  # where its metrics.json is; empty for a stage without metrics
    trains: bool  # it logs curves
    desc: str = ""
    reads: tuple[str, ...] = ()  # paths of dvc.yaml, * for a value of the matrix
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reports:
    """The stages, the params that dvc.lock says they ran with, by dotted key of params.yaml, and the data set.

    `images`: 12 hex digits of the images artifact that most evaluations are of, of equally many the first one's.
    `root`: the folder with all reports.
    """

    stages: dict[str, Stage]
    params: dict[str, Any]
    images: str
    root: Path

    def folder(self, stage: str, name: str = "") -> Path:
        """Where a member of a stage reports."""
        return self.stages[stage].folders[name]

    def metrics(self, stage: str) -> dict[str, Metrics]:
        """{name: metrics} of the members that have any of these images, in the order of the lists; {} of no stage."""
        found = read_members(self.stages[stage]) if stage in self.stages else {}
        return {name: one for name, one in found.items() if self.belongs(stage, one)}

    def belongs(self, stage: str, metrics: Metrics) -> bool:
        """Whether metrics of a stage are of the page's images."""
        return stage in APART or of_images(metrics) == self.images != ""

    def stale(self) -> dict[str, str]:
        """{stage@member, as `semtok run` takes it: the images that it was measured on, "" if it does not say}."""
        return {
            "@".join(filter(None, (stage, name))): of_images(metrics)
            for stage, facts in self.stages.items()
            for name, metrics in read_members(facts).items()
            if not self.belongs(stage, metrics)
        }

    def left_out(self) -> list[str]:
        """Folders of names that are not listed."""
        listed = {one for stage in self.stages.values() if "" not in stage.folders for one in stage.folders.values()}
        parents = {one.parent for one in listed}
        others = [one for parent in parents for one in parent.glob("*/") if one not in listed | parents]
        return sorted(f"{one.parent.name}/{one.name}" for one in others)


@dataclass(frozen=True)
class Evaluation:
    """A tokenizer with a decoder: metrics of its reconstructions and of its samples, the latter empty without any."""

    tokenizer: str
    decoder: str
    reconstruction: Metrics
    generation: Metrics

    @property
    def generators(self) -> list[str]:
        """The generators whose samples were scored."""
        return [group for group in self.generation if group not in ("images", "tokenizer", "val", "protocol")]


@dataclass(frozen=True)
class Run:
    """A training: {curve: {"train" or "val": series}}, its last picture if it drew any, and its images."""

    name: str
    curves: dict[str, dict[str, Series]]
    picture: Path | None
    images: str


def read_reports(root: Path, pipeline: Path, params: Path, lock: Path) -> Reports:
    """The stages of the dvc.yaml `pipeline`, whose folders reports/… are those below `root`."""
    files = [YAML(typ="safe").load(file)["stages"] for file in parts_of(pipeline)]
    found = {name: read_stage(stage, params, root) for stages in files for name, stage in stages.items()}
    evaluated = [of_images(one) for one in read_members(found["reconstruction"]).values()]
    known = [images for images in evaluated if images]
    return Reports(found, used_params(lock, found), max(known, key=known.count, default=""), root)


def read_stage(stage: dict[str, Any], params: Path, root: Path) -> Stage:
    """A stage of dvc.yaml with its matrix filled from the lists of params.yaml."""
    matrix = stage.get("matrix", {})
    lists = [load_value(given.strip("${}"), params) if isinstance(given, str) else given for given in matrix.values()]
    chosen = [[str(value) for value in values] for values in product(*lists)]
    items = {"-".join(values): dict(zip(matrix, values, strict=True)) for values in chosen}
    # Earlier commits, which `semtok compare` reads, declare them as metrics of DVC.
    written = [Path(path) for path in [*paths_of(stage, "outs"), *paths_of(stage, "metrics")]]
    metrics = [root / path.relative_to("reports") for path in written if path.name == "metrics.json"]
    folders = {name: Path(fill(str(path.parent), item)) for name, item in items.items() for path in metrics}
    trains = any(path.endswith("plots/metrics") for path in paths_of(stage, "plots"))
    reads, writes = patterns_of(stage, "deps"), patterns_of(stage, "outs", "metrics", "plots")
    return Stage(items, folders, trains, stage.get("desc", ""), reads, writes)


def patterns_of(stage: dict[str, Any], *keys: str) -> tuple[str, ...]:
    """The paths under some keys of a stage, with * for every value."""
    return tuple(re.sub(r"\$\{[^}]*\}", "*", path) for key in keys for path in paths_of(stage, key))


def paths_of(stage: dict[str, Any], key: str) -> list[str]:
    """The paths under a key of a stage, which may have options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in stage.get(key, [])]


def fill(text: str, item: dict[str, str]) -> str:
    """A text of dvc.yaml with the values of a member."""
    return re.sub(r"\$\{item\.(\w+)\}", lambda match: item[match[1]], text)


def used_params(lock: Path, stages: dict[str, Stage]) -> dict[str, Any]:
    """The params of the listed members in DVC's record of their last runs; {} without a record.

    The stage `report` is left out, because its record is of an earlier run. Keys of another file (pretrain.yaml) begin
    with that file's name.
    """
    locks = [YAML(typ="safe").load(file) or {} for file in parts_of(lock) if file.is_file()]
    found: dict[str, Any] = {}
    for entry, run in (pair for one in locks for pair in one.get("stages", {}).items()):
        stage, _, name = entry.partition("@")
        if stage == "report" or stage not in stages or name not in stages[stage].items:
            continue
        for file, values in run.get("params", {}).items():
            prefix = "" if Path(file).name == "params.yaml" else f"{Path(file).stem}."
            found |= {f"{prefix}{key}": value for key, value in values.items()}
    return found


def read_members(stage: Stage) -> dict[str, Metrics]:
    """{name: metrics} of the members of a stage that have any."""
    found = {name: read_metrics(folder) for name, folder in stage.folders.items()}
    return {name: metrics for name, metrics in found.items() if metrics is not None}


def of_images(metrics: Metrics) -> str:
    """12 hex digits of the images artifact that metrics are of; empty if they do not say."""
    return metrics.get("images", "")


def read_metrics(folder: Path) -> Metrics | None:
    """A folder's metrics.json, or None."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}). Run `dvc repro`.") from None


def read_evaluations(reports: Reports) -> dict[str, Evaluation]:
    """The evaluations by name; `UserError` without any."""
    reconstructions, generations = reports.metrics("reconstruction"), reports.metrics("generation")
    if not reconstructions:
        missing = ", ".join(map(str, reports.stages["reconstruction"].folders.values()))
        why = "no metrics.json that says of which images it is"
        raise UserError(f"{missing}: {why}. Run `dvc repro reconstruction generation` first.")
    items = reports.stages["reconstruction"].items
    return {
        name: Evaluation(items[name]["tokenizer"], items[name]["decoder"], metrics, generations.get(name, {}))
        for name, metrics in reconstructions.items()
    }


def read_runs(reports: Reports) -> list[Run]:
    """Every training that left curves, in the order of the pipeline, without those of other images."""
    trainings, stale = [(name, stage) for name, stage in reports.stages.items() if stage.trains], reports.stale()
    runs = [
        read_run(f"{name}/{member}", folder)
        for name, stage in trainings
        for member, folder in stage.folders.items()
        if f"{name}@{member}" not in stale
    ]
    return [run for run in runs if run.curves]


def read_run(name: str, folder: Path) -> Run:
    """The curves and the last picture of one training; a curve in the folder val/ belongs to that of train/."""
    curves: dict[str, dict[str, Series]] = {}
    root = folder / "plots" / "metrics"
    for path in sorted(root.glob("**/*.tsv")):
        curve = path.relative_to(root).with_suffix("").as_posix()
        split, _, rest = curve.partition("/")
        subject, split = (rest, split) if split in ("train", "val") else (curve, "train")
        curves.setdefault(subject, {})[split] = next(iter(read_tsv(path).values()))
    pictures = sorted((folder / "pictures").glob("*.png"))
    return Run(name, curves, pictures[-1] if pictures else None, of_images(read_metrics(folder) or {}))


def read_tsv(path: Path) -> dict[str, Series]:
    """A table with a `step` column: {other column: (steps, values)}."""
    rows = [line.split("\t") for line in path.read_text(errors="replace").splitlines() if line]
    try:
        place = rows[0].index("step")
        columns = {name: [float(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0])}
    except (ValueError, IndexError):
        raise UserError(
            f"{path}: expected tab-separated numbers below a header with `step`. Run `dvc repro`."
        ) from None
    steps = columns.pop(rows[0][place])
    return {name: (steps, values) for name, values in columns.items()}
