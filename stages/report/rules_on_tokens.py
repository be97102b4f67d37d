"""What the claims on tokens compare, S1 to S5, S10 and S11: a function per claim, from the bench to its comparisons.

The rules in words: claims.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations, product
from math import nan
from statistics import StatisticsError, correlation

from stages.report.bench import PIXEL, Bench, Candidate, matched, unequal_sizes, value
from stages.report.gather import Metrics
from stages.report.replicates import Configuration, Training
from stages.report.sides import CLAIM, CONTROL, Comparison, Read, Side, Value, by_tokenizer, compare, side
from stages.report.tables import protocol_of, shared

NOISE_DB = 20
ROBUSTNESS = ("change", "foreground_change")  # share of codes over all patches, and over those with an object
TEACHER_STEP = 0.05  # accuracy of linear probes by which teachers differ
USAGE_MARGIN = 0.05  # of the other's usage
FEWEST_POINTS = 4  # tokenizers of a correlation

Letter = Callable[[Bench, str], Read]


def semantic_pairs(candidates: list[Candidate], *kinds: str) -> Iterator[tuple[str, Candidate, Candidate]]:
    """(role, semantic tokenizer, the one that it should beat), of the first semantic tokenizer of each of the kinds."""
    leading: dict[str, Candidate] = {}
    for one in candidates:
        if one.semantic or one.pixel:
            leading.setdefault(one.kind, one)
    for better, worse in product((leading[kind] for kind in kinds if kind in leading), candidates):
        if role := role_of(better, worse, leading):
            yield role, better, worse


def role_of(better: Candidate, worse: Candidate, leading: dict[str, Candidate]) -> str:
    """The first pixel tokenizers, of equal sizes, are the claim; "" for what is not compared."""
    same = not unequal_sizes(better, worse)
    if worse.pixel and same:
        return CLAIM if worse is leading[worse.kind] else ""
    random = worse.random_encoder and same and worse.kind == better.kind
    return CONTROL if random or (worse.kind in PIXEL and matched(better, worse)) else ""


def rows(
    bench: Bench, role: str, better: Candidate, worse: Candidate, metric: str, sign: int, samples: bool
) -> Iterator[Comparison]:
    """Two tokenizers by a metric of their samples or reconstructions, if both have it."""
    one, other = bench.side(better, metric), bench.side(worse, metric)
    if one and other:
        yield compare(role, metric, one, other, sign, objection=bench.objection(better, worse, samples))


def noise_stability(bench: Bench) -> Iterator[Comparison]:
    """S1."""
    for role, better, worse in semantic_pairs(bench.tokenizers(), "kmeans"):
        sides = better.configuration, worse.configuration
        trainings = [training for one in sides for training in one.trainings]
        found = [bench.metrics("noise_robustness", one.tokenizer) for one in trainings]
        apart = len({shared(protocol_of(one, "noise_robustness")) for one in found}) > 1
        for metric in ROBUSTNESS:
            read = partial(bench.changed, f"snr_{NOISE_DB}_db", metric)
            name = f"{metric} at {NOISE_DB} dB"
            objection = "measured under different protocols" * apart
            yield from compared(role, name, *sides, read, by_tokenizer, -1, objection)


def compared(
    role: str, metric: str, better: Configuration, worse: Configuration, read: Read,
    unit: Callable[[Training], object], sign: int, objection: str = "",
) -> Iterator[Comparison]:  # fmt: skip
    """Two configurations by what `read` gives for their trainings, if it gives anything."""
    one, other = side(better, read, unit), side(worse, read, unit)
    if one and other:
        yield compare(role, metric, one, other, sign, objection=objection)


def generation_on_semantic_codes(bench: Bench) -> Iterator[Comparison]:
    """S2."""
    for role, better, worse in semantic_pairs(bench.autoregressive(), "kmeans"):
        yield from rows(bench, role, better, worse, bench.distance("g"), -1, samples=True)
    for role, semantic, pixel in semantic_pairs(bench.tokenizers(), "kmeans"):
        if role == CLAIM:
            yield from rows(bench, role, pixel, semantic, bench.distance("r"), -1, samples=False)


def order_of_tokenizers(bench: Bench) -> Iterator[Comparison]:
    """S3."""
    metric, drawn = bench.distance("g"), bench.autoregressive()
    vqkd, cluster = (next((one for one in drawn if one.kind == kind), None) for kind in ("vqkd", "cluster"))
    if vqkd and cluster and not unequal_sizes(vqkd, cluster):
        yield from rows(bench, CLAIM, vqkd, cluster, metric, -1, samples=True)
    for role, better, worse in semantic_pairs(drawn, "vqkd", "cluster"):
        yield from rows(bench, role, better, worse, metric, -1, samples=True)


def better_teacher(bench: Bench) -> Iterator[Comparison]:
    """S4."""
    drawn = [one for one in bench.autoregressive() if one.kind == "kmeans"]
    quality = {id(one): teacher_accuracy(bench, one) for one in drawn}
    for better, worse in permutations(drawn, 2):
        if not unequal_sizes(better, worse) and quality[id(better)] - quality[id(worse)] >= TEACHER_STEP:
            role = CONTROL if worse.random_encoder else CLAIM
            yield from rows(bench, role, better, worse, bench.distance("g"), -1, samples=True)


def teacher_accuracy(bench: Bench, one: Candidate) -> float:
    """Of a linear probe of the features that a tokenizer clusters; nan if it was not measured."""
    found = bench.metrics("code_analysis", one.configuration.first.tokenizer)
    return found.get("class", {}).get("features", nan)


def codebook_usage(bench: Bench) -> Iterator[Comparison]:
    """S5."""
    for better, worse in permutations(bench.tokenizers(), 2):
        plain = worse.kind == "vqgan" and worse.tokenizer.get("revive_dead_codes") is False
        if better.semantic and plain and not unequal_sizes(better, worse):
            role = CONTROL if better.tokenizer.get("revive_dead_codes") is False else CLAIM
            sides = [side(one.configuration, partial(usage, bench), by_tokenizer) for one in (better, worse)]
            if sides[0] and sides[1]:
                yield compare(role, "share of codes in use", sides[0], sides[1], 1, margin=USAGE_MARGIN)


def usage(bench: Bench, training: Training) -> Value | None:
    """Share of the codes that occur in val images."""
    return value(bench.group(training)[0].get("code_usage", {}), "live_fraction")


def lda_against_pca(bench: Bench) -> Iterator[Comparison]:
    """S10. Its seeds draw the points, so each is a training of both projections."""
    found = bench.metrics("pca_vs_lda", "")
    counts = {one["of"]: len(one.get("point_seeds", [])) for one in found.get("protocol", [])}
    for case, count in counts.items():
        for level in (name for name in found[case]["lda"] if not name.endswith("_std")):
            sides = [toy_side(f"{kind}, {case}, {level}", found[case][kind], level, count) for kind in ("lda", "pca")]
            yield compare(CLAIM, "test accuracy", *sides, 1)


def toy_side(name: str, metrics: Metrics, level: str, count: int) -> Side:
    """`count` values with the mean and the deviation that the toy's seeds have."""
    mean, deviation = metrics[level], metrics.get(f"{level}_std", 0.0)
    step = deviation * ((count - 1) / 2) ** 0.5
    return Side(name, [(mean - step, deviation), (mean + step, deviation), *[(mean, deviation)] * (count - 2)])


def code_noise(bench: Bench) -> Iterator[Comparison]:
    """S11: correlations over tokenizers, one per training: those of the first seeds, of the second and so on."""
    letters: dict[str, Letter] = {"p": by_code_noise, "r": by_reconstruction, "g": Bench.read}
    drawn = [one.configuration.trainings for one in bench.autoregressive()]
    columns = [points for trainings in zip(*drawn, strict=False) if (points := points_of(bench, trainings, letters))]
    if columns:
        sides = [Side(f"{name}FID", [(one[name], nan) for one in columns]) for name in ("p", "r")]
        yield compare(CLAIM, "correlation with gFID", sides[0], sides[1], 1)


def points_of(bench: Bench, trainings: tuple[Training, ...], letters: dict[str, Letter]) -> dict[str, float] | None:
    """The correlations of pFID and of rFID with gFID over some tokenizers; None where too few were measured."""
    reads = {letter: read(bench, bench.distance("g").replace("g", letter, 1)) for letter, read in letters.items()}
    rows = [{letter: read(one) for letter, read in reads.items()} for one in trainings]
    whole = [{letter: found[0] for letter, found in row.items() if found} for row in rows]
    whole = [row for row in whole if len(row) == len(letters)]
    if len(whole) < FEWEST_POINTS:
        return None
    try:
        return {letter: correlation([row[letter] for row in whole], [row["g"] for row in whole]) for letter in "pr"}
    except StatisticsError:  # all equal
        return None


def by_code_noise(bench: Bench, metric: str) -> Read:
    """Reads the mean pFID of a tokenizer and decoder; none of so few codes that no other one is near."""

    def read(training: Training) -> Value | None:
        found = bench.metrics("code_noise_fid", f"{training.tokenizer}-{training.decoder}")
        return value(found["pfid"], metric) if any(one["delta"] > 1 for one in found.get("points", [])) else None

    return read


def by_reconstruction(bench: Bench, metric: str) -> Read:
    """Reads rFID of a training's tokenizer and decoder."""
    return lambda one: bench.read(metric)(Training(one.tokenizer, one.decoder))
