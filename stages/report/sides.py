"""Two configurations compared by one metric, beside the spread between their trainings."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import hypot, inf, isnan, nan
from statistics import fmean, stdev

from stages.report.replicates import Configuration, Training

SIGMAS = 2.0  # standard deviations of the difference beyond which it counts
MIN_TRAININGS = 3  # of either side, for a verdict on a claim
HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds here", "does not hold here", "undecided at this scale"
TRAININGS, ONE_TRAINING = "trainings", "one training"
CLAIM, CONTROL = "claim", "control"

Value = tuple[float, float]  # a metric of one training, and its deviation between samples or images (nan: unknown)
Read = Callable[[Training], Value | None]  # None: not measured


@dataclass(frozen=True)
class Side:
    """One metric of trainings that differ by seeds alone."""

    name: str
    values: list[Value]

    @property
    def mean(self) -> float:
        """Over the trainings."""
        return fmean(value for value, _ in self.values)

    @property
    def between(self) -> float:
        """Standard deviation between trainings; nan for one."""
        return stdev(value for value, _ in self.values) if len(self.values) > 1 else nan

    @property
    def within(self) -> float:
        """Standard deviation within a training, the root of the mean square over the trainings."""
        return fmean(deviation**2 for _, deviation in self.values) ** 0.5


@dataclass(frozen=True)
class Comparison:
    """Whether the first side beats the second by one metric; both in the metric's unit."""

    role: str  # claim | control
    better: str
    worse: str
    metric: str
    values: tuple[float, float]  # means over the trainings
    spreads: tuple[float, float]  # standard deviations, between trainings or within one
    spread_of: str  # trainings | one training
    trainings: tuple[int, int]
    gain: float  # above 0: as claimed
    sigmas: float  # gain, beyond what the rule asks for, in standard deviations of the difference
    verdict: str
    objection: str  # why it may not count; "" if it may


def compare(
    role: str, metric: str, better: Side, worse: Side, sign: int, *, margin: float = 0.0, objection: str = ""
) -> Comparison:
    """`sign` is 1 where more is better, else -1; `margin` the share of the second mean by which the first must win.

    A negative margin allows the first to lose by so much. The deviation of the difference is that of two single
    trainings, taken as independent.
    """
    sides = (better, worse)
    enough = min(len(side.values) for side in sides) >= MIN_TRAININGS
    spreads = tuple(side.between if enough else side.within for side in sides)
    gain, deviation = sign * (better.mean - worse.mean), hypot(*spreads)
    excess = gain - margin * abs(worse.mean)
    sigmas = excess / deviation if deviation else inf * excess if excess else 0.0
    objection = objection or ("no spread is known" if isnan(deviation) else "")
    objection = objection or ("" if enough else f"trained fewer than {MIN_TRAININGS} times with other seeds")
    verdict = HOLDS if sigmas > SIGMAS else DOES_NOT_HOLD if sigmas < -SIGMAS else UNDECIDED
    counts, spread_of = (len(better.values), len(worse.values)), TRAININGS if enough else ONE_TRAINING
    return Comparison(
        role, better.name, worse.name, metric, (better.mean, worse.mean), (spreads[0], spreads[1]), spread_of, counts,
        gain, sigmas, verdict, objection,
    )  # fmt: skip


def side(configuration: Configuration, read: Read, unit: Callable[[Training], Hashable], name: str = "") -> Side | None:
    """The metric of a configuration: its mean over what shares a `unit`, the training that is compared."""
    values = [*values_of(configuration, read, unit).values()]
    return Side(name or configuration.name, values) if values else None


def values_of(configuration: Configuration, read: Read, unit: Callable[[Training], Hashable]) -> dict[Hashable, Value]:
    """{unit: the mean of what shares it}, of the trainings that have the metric."""
    found: dict[Hashable, list[Value]] = {}
    for training in configuration.trainings:
        if (value := read(training)) is not None:
            found.setdefault(unit(training), []).append(value)
    return {of: averaged(values) for of, values in found.items()}


def averaged(values: Iterable[Value]) -> Value:
    """The mean of some values, with the root of the mean square of their deviations."""
    values = [*values]
    return fmean(value for value, _ in values), fmean(deviation**2 for _, deviation in values) ** 0.5


def combined(comparisons: list[Comparison], controls: bool) -> str:
    """The verdict on a claim: it holds if all its comparisons do, and a control where `controls` are asked for.

    It does not hold if one does not, claim or control. What has an objection does not count.
    """
    counted = [one for one in comparisons if not one.objection]
    if any(one.verdict == DOES_NOT_HOLD for one in counted):
        return DOES_NOT_HOLD
    roles = {one.role for one in counted}
    complete = CLAIM in roles and (CONTROL in roles or not controls)
    needed = [one for one in comparisons if one.role == CLAIM or not one.objection]
    held = all(one.verdict == HOLDS and not one.objection for one in needed)
    return HOLDS if complete and held else UNDECIDED


def by_tokenizer(training: Training) -> Hashable:
    """Trainings of a tokenizer, each with decoders and generators of its own."""
    return training.tokenizer


def by_decoder(training: Training) -> Hashable:
    """Trainings of a decoder: each is of one tokenizer's codes."""
    return training.tokenizer, training.decoder


def by_generator(training: Training) -> Hashable:
    """Trainings of a generator: each is of one tokenizer's codes."""
    return training.tokenizer, training.generator
