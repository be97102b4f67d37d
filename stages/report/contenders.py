"""Which tokenizer, decoder and generator make the best images, and by how much: the answer on top of the page."""

import re
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from stages.report.gather import Evaluation, Metrics, Reports
from stages.report.replicates import configurations
from stages.report.sides import MIN_TRAININGS, SIGMAS
from stages.report.tables import protocol_of, rounded, shared

# The Fréchet distance that ranks: published features first, then those that no tokenizer has seen.
RANKING = ("inception", "efficientnet_lite0", "classifier", "dinov2", "clip", "embedded")


@dataclass(frozen=True)
class Contender:
    """A generator with its tokenizer and decoder, and its metrics under one protocol."""

    evaluation: Evaluation
    generator: str
    label: str
    metrics: Metrics
    trainings: int = 1  # behind the metrics

    @property
    def short(self) -> str:
        """The label without the words between the names."""
        return re.sub(r"generator | tokenizer| decoder", "", self.label)

    def shown(self, metric: str) -> str:
        """A metric with its spread."""
        return rounded(self.metrics[metric], self.metrics.get(f"{metric}_std"))


@dataclass(frozen=True)
class Answer:
    """The contenders by a metric, the best first, and what the page says of them."""

    metric: str
    ranked: list[Contender]
    real: float | None  # what real val images score
    headline: str
    sentences: list[str]

    @property
    def bars(self) -> list[dict[str, Any]]:
        """The first contenders, with the lengths of their bars and of their spreads in percent."""
        shown = self.ranked[:6]
        most = max(one.metrics[self.metric] + one.metrics.get(f"{self.metric}_std", 0.0) for one in shown)
        scale = 100 / max(most, 1e-9)
        return [
            {
                "label": one.short, "value": one.shown(self.metric), "percent": one.metrics[self.metric] * scale,
                "spread": one.metrics.get(f"{self.metric}_std", 0.0) * scale,
            }
            for one in shown
        ]  # fmt: skip

    @property
    def real_percent(self) -> float | None:
        """Where real val images stand on the bars' scale."""
        best, bar = self.ranked[0].metrics[self.metric], self.bars[0]["percent"]
        return None if self.real is None or not best else max(0.0, self.real) * bar / best


def answer(reports: Reports, evaluations: dict[str, Evaluation]) -> Answer | None:
    """Which contender is best; None without any."""
    found = contenders(reports, evaluations)
    metric = next((name for one in found for name in ranking_keys(one.metrics, "gfid[")), "")
    ranked = sorted((one for one in found if metric in one.metrics), key=lambda one: one.metrics[metric])
    if not ranked:
        return None
    real = ranked[0].evaluation.generation.get("val", {}).get(metric)
    said = [*compared(ranked, metric), *other_tokenizer(ranked, metric), *contradicted(ranked)]
    return Answer(metric, ranked, real, headline(ranked, metric), said)


def ranking_keys(metrics: Metrics, start: str) -> list[str]:
    """The metrics whose names begin so, in the order of RANKING; dinov2 stands for networks of every size."""
    names = [key for key in metrics if key.startswith(start) and not key.endswith("_std")]
    return [key for name in RANKING for key in names if key.startswith(f"{start}{name}")]


def contenders(reports: Reports, evaluations: dict[str, Evaluation]) -> list[Contender]:
    """Every generator whose samples were scored like those of the first: unlike protocols are not ranked.

    Trainings that differ by their seeds alone are one contender.
    """
    scored = {
        (one.tokenizer, one.decoder, generator): one for one in evaluations.values() for generator in one.generators
    }
    protocols = {key: shared(protocol_of(one.generation, key[2])) for key, one in scored.items()}
    alike = [key for key in scored if protocols[key] == next(iter(protocols.values()))]
    several = {what: len({key[place] for key in alike}) > 1 for place, what in enumerate(("tokenizer", "decoder"))}
    groups = [
        [key for one in found.trainings if (key := (one.tokenizer, one.decoder, one.generator)) in alike]
        for found in configurations(reports, evaluations)
    ]
    return [
        Contender(scored[keys[0]], keys[0][2], label(scored[keys[0]], keys[0][2], several), *merged(keys, scored))
        for keys in filter(None, groups)
    ]


def merged(keys: list[tuple[str, str, str]], scored: dict[tuple[str, str, str], Evaluation]) -> tuple[Metrics, int]:
    """The metrics of one training, or means over several with the deviation between them, and how many there are."""
    each = [scored[key].generation[key[2]] for key in keys]
    if len(each) < MIN_TRAININGS:
        return each[0], 1
    numbers = [key for key, value in each[0].items() if isinstance(value, float) and not key.endswith("_std")]
    known = {key: [one[key] for one in each] for key in numbers if all(key in one for one in each)}
    means = {key: fmean(values) for key, values in known.items()}
    return {**each[0], **means, **{f"{key}_std": stdev(values) for key, values in known.items()}}, len(each)


def label(evaluation: Evaluation, generator: str, several: dict[str, bool]) -> str:
    """What a contender is called; its tokenizer and its decoder are named where there are several."""
    tokenizer = f" with tokenizer {evaluation.tokenizer}" if several["tokenizer"] else ""
    decoder = f", decoder {evaluation.decoder}" if several["decoder"] else ""
    return f"generator {generator}{tokenizer}{decoder}"


def difference(one: Contender, other: Contender, metric: str) -> tuple[float, float | None]:
    """By how much one is less than the other, and the deviation of that; None without spreads."""
    known = [side.metrics[f"{metric}_std"] for side in (one, other) if f"{metric}_std" in side.metrics]
    gap = other.metrics[metric] - one.metrics[metric]
    return gap, sum(std**2 for std in known) ** 0.5 if len(known) == 2 else None


def is_clear(gap: float, std: float | None) -> bool:
    """Whether a difference is beyond its spread."""
    return std is not None and abs(gap) > SIGMAS * std


def headline(ranked: list[Contender], metric: str) -> str:
    """The answer in one line."""
    if len(ranked) == 1:
        return f"One generator was scored: {ranked[0].label}"
    if is_clear(*difference(ranked[0], ranked[1], metric)):
        return f"Best images: {ranked[0].label}"
    return f"Undecided: {ranked[0].label}, or {ranked[1].label}"


def compared(ranked: list[Contender], metric: str) -> list[str]:
    """The best beside the second."""
    best = f"It scores gFID {ranked[0].shown(metric)}"
    if len(ranked) == 1:
        return [f"{best}."]
    return [f"{best}; second is {ranked[1].short}, {ranked[1].shown(metric)}.", gap_of(ranked[0], ranked[1], metric)]


def gap_of(one: Contender, other: Contender, metric: str) -> str:
    """The difference with its spread."""
    gap, std = difference(one, other, metric)
    if std is None:
        return f"The difference is {gap:.3g}; its spread was not measured."
    times = f", {gap / std:.1f} times its standard deviation" if std else ""
    return f"The difference is {rounded(gap, std)}{times}."


def other_tokenizer(ranked: list[Contender], metric: str) -> list[str]:
    """The best beside the best of another tokenizer, unless that is the second."""
    own = ranked[0].evaluation.tokenizer
    other = next((one for one in ranked if one.evaluation.tokenizer != own), None)
    if other is None or other is ranked[1]:
        return []
    return [f"Best of another tokenizer: {other.short}, {other.shown(metric)}.", gap_of(ranked[0], other, metric)]


def contradicted(ranked: list[Contender]) -> list[str]:
    """Whether class accuracy clearly prefers another."""
    known = [one for one in ranked if "class_accuracy" in one.metrics]
    if ranked[0] not in known:
        return []
    most = max(known, key=lambda one: one.metrics["class_accuracy"])
    if not is_clear(*difference(ranked[0], most, "class_accuracy")):
        return []
    values = [one.shown("class_accuracy") for one in (most, ranked[0])]
    return [f"By class accuracy, {most.short} is ahead: {values[0]} against {values[1]}."]
