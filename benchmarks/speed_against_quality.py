"""Images per second against quality: every combination of the study `sampling`, timed on this machine.

Run:    OMP_NUM_THREADS=1 uv run python -m benchmarks.speed_against_quality reports/sampling/* [--plot curve.png]
        (after: uv run semtok set @presets/sampling_study.yaml && uv run semtok run sampling)
Expect: a row for each combination, fastest first: images per second, the median of --rounds batches, the metric of the
        study, and * where nothing else is both faster and better. Decoding is left out, which is the same for all.
        --plot writes all of them as a picture, a color for each generator, the best ones joined.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stages.core import UserError
from stages.core.artifact import write_atomically
from stages.core.results import png_of
from stages.generator.alternating_params import kind_named
from stages.generator.open_network import open_network
from stages.generator.params import Sampling
from stages.report.generators import PLOTTED, shown_value
from stages.report.plots import finish, panels


@dataclass(frozen=True)
class Combination:
    """One point of a grid, timed."""

    generator: str
    changes: str
    images_per_second: float
    metric: float


def combinations(study: Path, data: Path, metric: str, batch: int, rounds: int) -> list[Combination]:
    """The points of a report folder of the study, except those that begin with real codes; `data`: all artifacts."""
    found = json.loads((study / "metrics.json").read_text())
    if "grids" not in found:
        raise UserError(f"{study}: no settings were measured; add presets/sampling_study.yaml to the params")
    facts, points = found["generator"], [point for grid in found["grids"] for point in grid["points"]]
    network, config, kind = open_network(data / "generator" / f"{facts['tokenizer']}-{facts['name']}", "cpu")
    labels = torch.arange(batch) % max(1, len(config["classes"]))
    made = []
    for point in (point for point in points if "real_codes" not in point["changes"]):
        settings = {**json.loads(facts["settings"]), **point["changes"]}
        sampling = type(kind_named(facts["kind"]).plain)(**settings)
        changes = ", ".join(f"{name} {shown_value(value)}" for name, value in point["changes"].items())
        rate = batch / seconds_of(kind, network, labels, sampling, rounds)
        made.append(Combination(facts["name"], changes, rate, point["metrics"][metric]))
    return made


def seconds_of(kind: ModuleType, network: Any, labels: Tensor, sampling: Sampling, rounds: int) -> float:
    """The median time of a batch after one that is not counted."""
    taken = []
    for seed in range(rounds + 1):
        started = time.perf_counter()
        kind.sample(network, labels, sampling, seed)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def front(found: list[Combination], less_is_better: bool) -> list[Combination]:
    """Those than which none is both faster and better, fastest first."""
    best: list[Combination] = []
    for one in sorted(found, key=lambda one: -one.images_per_second):
        if not best or (one.metric != best[-1].metric and (one.metric < best[-1].metric) == less_is_better):
            best.append(one)
    return best


def show(found: list[Combination], metric: str, best: list[Combination]) -> None:
    """Print a row for each combination."""
    print(f"  {'images/s':>9} {metric:>20}")
    for one in sorted(found, key=lambda one: -one.images_per_second):
        mark = "*" if one in best else " "
        print(f"{mark} {one.images_per_second:9.1f} {one.metric:20.4g}   {one.generator}: {one.changes}")


def plot(found: list[Combination], metric: str, less_is_better: bool, path: Path) -> None:
    """Write all combinations as a PNG, a color for each generator, its best ones joined."""
    figure, [axis] = panels(1, 1, 5.0)
    for name in dict.fromkeys(one.generator for one in found):
        own = [one for one in found if one.generator == name]
        best = front(own, less_is_better)
        [line] = axis.plot([one.images_per_second for one in best], [one.metric for one in best], label=name)
        rates, metrics = [one.images_per_second for one in own], [one.metric for one in own]
        axis.scatter(rates, metrics, color=line.get_color(), s=14)
    axis.set_xscale("log")
    axis.set_xlabel("images per second")
    axis.legend(frameon=False)
    finish(axis, metric)
    write_atomically(path, png_of(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="report folders of the study sampling")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all artifacts")
    parser.add_argument("--metric", choices=list(PLOTTED), default="gfid[classifier]")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    args = parser.parse_args()
    lists = [combinations(study, args.data, args.metric, args.batch, args.rounds) for study in args.studies]
    found, less_is_better = [one for made in lists for one in made], PLOTTED[args.metric]
    print(f"{torch.get_num_threads()} threads, batches of {args.batch}, medians of {args.rounds}")
    show(found, args.metric, front(found, less_is_better))
    if args.plot:
        plot(found, args.metric, less_is_better, args.plot)


if __name__ == "__main__":
    main()
