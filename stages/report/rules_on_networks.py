"""What the claims on decoders and generators compare, S6 to S9: a function per claim. The rules in words: claims.py."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, permutations
from math import hypot, nan

from stages.report.bench import Bench, Candidate, value
from stages.report.gather import Metrics
from stages.report.replicates import Training, seedless
from stages.report.rules_on_tokens import rows
from stages.report.sides import (
    CLAIM,
    CONTROL,
    Comparison,
    Side,
    Value,
    by_decoder,
    by_generator,
    by_tokenizer,
    compare,
    side,
    values_of,
)  # fmt: skip

LAYER_PROBES = ("layer_probe", "alternating_layer_probe")  # stages
FEW_STEPS, STEPS_MARGIN = 3, 0.05  # decoding steps; share of the other's rFID


def diffusion_decoding(bench: Bench) -> Iterator[Comparison]:
    """S6."""
    gains: list[tuple[float, Side]] = []
    for letter, generator_kind in (("r", ""), ("g", "ar")):
        metric = bench.distance(letter)
        for diffusion, onestep in decoder_pairs(bench, generator_kind):
            sides = [side(one.configuration, bench.read(metric), by_decoder) for one in (diffusion, onestep)]
            if sides[0] and sides[1]:
                objection = bench.objection(diffusion, onestep, samples=bool(generator_kind))
                yield compare(CLAIM, metric, sides[0], sides[1], -1, objection=objection)
                if letter == "r" and not objection:
                    gains.append((diffusion.code_bits, fall(bench, metric, diffusion, onestep)))
    if len({bits for bits, _ in gains}) > 1:
        least, most = min(gains, key=lambda one: one[0]), max(gains, key=lambda one: one[0])
        yield compare(CLAIM, "share by which rFID falls", least[1], most[1], 1)


def decoder_pairs(bench: Bench, generator_kind: str) -> Iterator[tuple[Candidate, Candidate]]:
    """Per tokenizer the first diffusion and the first one-step decoder, with samples of the first such generator."""
    found: dict[tuple[str, str], Candidate] = {}
    for one in bench.candidates:
        if one.generator_kind == generator_kind:
            found.setdefault((one.configuration.first.tokenizer, one.decoder_kind), one)
    for (tokenizer, kind), one in found.items():
        if kind == "diffusion" and (other := found.get((tokenizer, "onestep"))):
            yield one, other


def fall(bench: Bench, metric: str, diffusion: Candidate, onestep: Candidate) -> Side:
    """By which share rFID falls, per tokenizer that was decoded by both."""
    each = [values_of(one.configuration, bench.read(metric), by_tokenizer) for one in (diffusion, onestep)]
    both = [(one, each[1][tokenizer]) for tokenizer, one in each[0].items() if tokenizer in each[1]]
    name = f"{diffusion.configuration.name} against {onestep.configuration.name}"
    return Side(name, [(1 - one[0] / other[0], nan) for one, other in both])


def few_steps(bench: Bench) -> Iterator[Comparison]:
    """S7."""
    metric = bench.distance("r")
    for one in bench.candidates:
        if one.decoder_kind == "diffusion" and not one.configuration.first.generator:
            reads = [partial(best_of_steps, bench, metric, few) for few in (True, False)]
            names = (f"{one.configuration.name}, 1 to {FEW_STEPS} steps", f"{one.configuration.name}, more steps")
            sides = [side(one.configuration, read, by_decoder, name) for read, name in zip(reads, names, strict=True)]
            if sides[0] and sides[1]:
                yield compare(CLAIM, metric, sides[0], sides[1], -1, margin=-STEPS_MARGIN)


def best_of_steps(bench: Bench, metric: str, few: bool, training: Training) -> Value | None:
    """The best rFID of at most FEW_STEPS decoding steps, or of more, with its deviation over images and seeds."""
    found = bench.metrics("decoding_steps", f"{training.tokenizer}-{training.decoder}")
    steps = {name: int(name.removeprefix("steps_")) for name in found if name.startswith("steps_")}
    groups = [found[name] for name, count in steps.items() if (count <= FEW_STEPS) == few and metric in found[name]]
    best = min(groups, key=lambda one: one[metric], default=None)
    spreads = ("_std", "_seed_std")
    return best and (best[metric], hypot(*(best.get(f"{metric}{name}", 0.0) for name in spreads)))


def alternating(bench: Bench) -> Iterator[Comparison]:
    """S8."""
    main = [one for one in bench.candidates if bench.is_main(one)]
    for addp, masked in permutations(main, 2):
        same = addp.configuration.first.tokenizer == masked.configuration.first.tokenizer
        if same and (addp.generator_kind, masked.generator_kind) == ("addp", "masked"):
            yield from rows(bench, CLAIM, addp, masked, bench.distance("g"), -1, samples=True)
    for one in (one for one in main if one.generator_kind == "addp"):
        best, raw = ("best layer", probe_of("trained", "best")), bench.metrics("probe", "").get("raw", {})
        yield from probed(bench, one, CLAIM, best, ("best of the untrained", probe_of("untrained", "best")))
        yield from probed(bench, one, CONTROL, best, ("raw pixels", lambda found, raw=raw: value(raw, "clean")))


Probe = tuple[str, Callable[[Metrics], Value | None]]  # its name, and what it reads in the metrics of a layer probe


def probe_of(network: str, layer: str) -> Callable[[Metrics], Value | None]:
    """Reads the accuracy of the best, middle or last layer of the trained or the untrained network."""
    return lambda found: value(found.get(network, {}), layer)


def embeddings(found: Metrics) -> Value | None:
    """The accuracy before the first block."""
    layers = found.get("layers", {}).get("trained", [])
    return next((value(one, "accuracy") for one in layers if one["layer"] == 0), None)


def probed(bench: Bench, one: Candidate, role: str, better: Probe, worse: Probe) -> Iterator[Comparison]:
    """Two linear probes of the same generator."""
    sides = [probe_side(bench, one, probe) for probe in (better, worse)]
    if sides[0] and sides[1]:
        yield compare(role, "accuracy of the linear probe", sides[0], sides[1], 1)


def probe_side(bench: Bench, one: Candidate, probe: Probe) -> Side | None:
    """A linear probe of the trainings of a generator."""

    def read(training: Training) -> Value | None:
        found = (bench.metrics(stage, f"{training.tokenizer}-{training.generator}") for stage in LAYER_PROBES)
        return probe[1](next(filter(None, found), {}))

    return side(one.configuration, read, by_generator, f"{one.configuration.name}, {probe[0]}")


def probe_by_layer(bench: Bench) -> Iterator[Comparison]:
    """S9."""
    drawn = [one for one in bench.autoregressive() if one.semantic and one.kind == "kmeans"]
    middle = ("middle layer", probe_of("trained", "middle"))
    for one in drawn[:1]:
        yield from probed(bench, one, CLAIM, middle, ("last block", probe_of("trained", "last")))
        yield from probed(bench, one, CLAIM, middle, ("embeddings", embeddings))
        yield from probed(bench, one, CONTROL, middle, ("middle of the untrained", probe_of("untrained", "middle")))
    for one, other in combinations(drawn, 2):
        if sizes_apart(one) == sizes_apart(other):
            sides = [probe_side(bench, each, ("best layer", probe_of("trained", "best"))) for each in (one, other)]
            found = sorted((each for each in sides if each), key=lambda each: -each.mean)
            if len(found) > 1:  # whichever is higher: the claim is that they differ
                yield compare(CLAIM, "accuracy of the linear probe", found[0], found[1], 1)


def sizes_apart(one: Candidate) -> Metrics:
    """The params of a tokenizer, without its seeds and its number of codes."""
    return seedless({**one.tokenizer, "num_codes": 0})
