"""Verdicts: whether a set of tokenizers shows the orderings that the papers expect or that controls test.

Tokenizers take part by their kind and their params, not by their name: those of SEMANTIC kinds against those of PIXEL
kinds. `encoder: random` and `input_noise` make controls, and so do codebooks of another size: they are compared where
bits per image or PSNR match. A difference counts above SIGMAS of its standard deviations; each side was trained once.
The page's section Tokenizers (prose.html) lists the cases without a verdict.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from stages.report.gather import Evaluation, Metrics
from stages.report.tables import Table, protocol_of, shared, spread

SIGMAS = 2.0
MIN_PROBE_ACCURACY = 0.6  # of a linear probe of the encoder's features on val
MIN_CLASS_ACCURACY = 0.9  # of reconstructions
MIN_SKILL = 0.1  # of samples: class accuracy rescaled to 0 at chance and 1 at 1
MAX_DIFFERENCE = {"rate": 0.1, "psnr": 1.0, "sizes": 0.1}  # share of the larger number of bits; dB; share of codes

SEMANTIC, PIXEL = ("kmeans", "cluster", "vqkd"), ("vqgan", "fsq")  # kinds of tokenizers
GENERATION = {"gfid[classifier]": -1, "class_accuracy": 1, "is[classifier]": 1}  # 1: more is better, -1: less is
RECONSTRUCTION = {"psnr_db": 1, "rfid[classifier]": -1}
ROBUSTNESS = {"change": -1, "foreground_change": -1}
NOISE = "noise_robustness"
PREFIX = {"": "", "rate": "at matched rate ", "psnr": "at matched PSNR "}


@dataclass(frozen=True)
class Candidate:
    """A tokenizer with a decoder. Groups of metrics and protocols: reconstruction, noise_robustness, each generator."""

    name: str
    decoder: str
    kind: str
    random_encoder: bool
    input_noise: float
    sizes: dict[str, int]  # num_codes, and codes per image
    probe_accuracy: float  # of the encoder; 1 where it was not measured
    generators: list[str]
    groups: dict[str, Metrics]
    protocols: dict[str, Metrics]

    @property
    def semantic(self) -> bool:
        """Its codes are clusters of trained features."""
        return self.kind in SEMANTIC and not self.random_encoder

    @property
    def pixel(self) -> bool:
        """Its codes are learned from clean pixels."""
        return self.kind in PIXEL and not self.input_noise

    @property
    def bits(self) -> float:
        """Bits per image by the first generator with an exact likelihood; 0 without one."""
        found = (self.groups[name].get("likelihood", {}) for name in self.generators)
        return next((one["val_bits_per_image"] for one in found if one.get("bound") == "exact"), 0.0)


@dataclass(frozen=True)
class Claim:
    """The claim that `better` beats `worse` in a group of metrics, at equal "rate", "psnr" or, for "", sizes."""

    text: str
    better: Candidate
    worse: Candidate
    group: str
    metrics: dict[str, int]
    matched: str = ""

    @property
    def sides(self) -> tuple[Candidate, Candidate]:
        """Both candidates."""
        return self.better, self.worse


def candidate(evaluation: Evaluation, section: dict[str, Any], noise: Metrics, probe_accuracy: float) -> Candidate:
    """An evaluated tokenizer; `section`: its params, `noise`: its noise robustness with the protocol."""
    made, drawn = evaluation.reconstruction, evaluation.generation
    groups = {"reconstruction": made["reconstruction"], **{name: drawn[name] for name in evaluation.generators}}
    protocols = {name: protocol_of(made if name == "reconstruction" else drawn, name) for name in groups}
    return Candidate(
        evaluation.tokenizer, evaluation.decoder, made["tokenizer"]["kind"], section.get("encoder") == "random",
        section.get("input_noise", 0.0), {name: made["tokenizer"][name] for name in ("num_codes", "codes")},
        probe_accuracy, evaluation.generators, {**groups, NOISE: noise}, {**protocols, NOISE: noise["protocol"]},
    )  # fmt: skip


def verdicts(candidates: list[Candidate]) -> list[Table]:
    """A table per topic, with a row for each claim about two measured tokenizers with the same decoder."""
    pairs = [(one, other) for one, other in permutations(candidates, 2) if one.decoder == other.decoder]
    shown = []
    for topic, metrics in ((generation, GENERATION), (reconstruction, RECONSTRUCTION), (robustness, ROBUSTNESS)):
        claims = [claim for pair in pairs for claim in topic(*pair)]
        rows = [(claim.text, measured_on(claim), *cells) for claim in claims if any(cells := verdict(claim))]
        unique = [list(row) for row in dict.fromkeys(rows)]  # codes alone say the same with every decoder
        shown += [Table(["expected ordering", "measured on", *metrics, "no verdict because"], unique)] if rows else []
    return shown


def generation(better: Candidate, worse: Candidate) -> Iterator[Claim]:
    """Semantic codes generate better than pixel codes, and than those of an untrained encoder."""
    generators = [name for name in better.generators if name in worse.generators]
    if better.semantic and worse.pixel:
        for matched in matches(better, worse):
            text = f"{PREFIX[matched]}{better.name} codes generate better than {worse.name} codes"
            yield from (Claim(text, better, worse, name, GENERATION, matched) for name in generators)
    if better.semantic and worse.random_encoder and better.kind == worse.kind:
        text = f"{better.name} codes of a trained encoder generate better than {worse.name} codes of a random one"
        yield from (Claim(text, better, worse, name, GENERATION) for name in generators)


def reconstruction(better: Candidate, worse: Candidate) -> Iterator[Claim]:
    """Pixel codes reconstruct better than semantic ones."""
    if better.pixel and worse.semantic:
        text = f"{better.name} codes reconstruct better than {worse.name} codes"
        yield Claim(text, better, worse, "reconstruction", RECONSTRUCTION)


def robustness(better: Candidate, worse: Candidate) -> Iterator[Claim]:
    """k-means codes change less under noise than other codes, including pixel codes trained with noise."""
    if better.kind != "kmeans" or better.random_encoder:
        return
    if worse.kind in PIXEL or worse.kind == "vqkd" or worse.random_encoder:
        for matched in matches(better, worse) if worse.pixel else [""]:
            text = f"{PREFIX[matched]}{better.name} codes are more robust to noise than {worse.name} codes"
            yield Claim(text, better, worse, NOISE, ROBUSTNESS, matched)


def matches(one: Candidate, other: Candidate) -> list[str]:
    """What makes two tokenizers comparable: their sizes (""), else "rate", "psnr" or both.

    Without any match it is "", too, and `unmatched` gives the reason against a verdict.
    """
    if not unequal_sizes(one, other):
        return [""]
    bits, psnr_db = (one.bits, other.bits), psnrs(one, other)
    rate = all(bits) and max(bits) * (1 - MAX_DIFFERENCE["rate"]) <= min(bits)
    psnr = abs(psnr_db[0] - psnr_db[1]) <= MAX_DIFFERENCE["psnr"]
    return [name for name, matched in (("rate", rate), ("psnr", psnr)) if matched] or [""]


def unequal_sizes(one: Candidate, other: Candidate) -> list[str]:
    """The sizes in which two tokenizers differ."""
    found = []
    for name, unit in (("num_codes", "codes"), ("codes", "codes per image")):
        counts = one.sizes[name], other.sizes[name]
        if max(counts) * (1 - MAX_DIFFERENCE["sizes"]) > min(counts):
            found.append(f"{counts[0]} and {counts[1]} {unit}")
    return found


def psnrs(one: Candidate, other: Candidate) -> tuple[float, float]:
    """PSNR of both reconstructions in dB."""
    return one.groups["reconstruction"]["psnr_db"], other.groups["reconstruction"]["psnr_db"]


def measured_on(claim: Claim) -> str:
    """Decoder and group; noise robustness depends on a decoder only where its PSNR was compared."""
    compares_psnr = claim.matched == "psnr" or (claim.worse.pixel and not claim.matched and unequal_sizes(*claim.sides))
    group = claim.group.replace("_", " ")
    return f"{claim.better.decoder}, {group}" if claim.group != NOISE or compares_psnr else group


def verdict(claim: Claim) -> list[str]:
    """A cell per metric, and why there is no verdict; all empty where either side was not measured."""
    sides = [side.groups[claim.group] for side in claim.sides]
    both = [name for name in claim.metrics if all(name in side for side in sides)]
    objection = next(objections(claim), "") if both else ""
    cells = {name: format_verdict(sides, name, claim.metrics[name], hide=bool(objection)) for name in both}
    return [*(cells.get(name, "") for name in claim.metrics), objection]


def format_verdict(sides: list[Metrics], name: str, sign: int, hide: bool) -> str:
    """Both values of a metric; before them, unless `hide`, whether the ordering appears."""
    values = ", ".join(spread(side, name) for side in sides)
    if hide:
        return values
    if any(f"{name}_std" not in side for side in sides):
        return f"no spread: {values}"
    gain = sign * (sides[0][name] - sides[1][name])
    noise = sum(side[f"{name}_std"] ** 2 for side in sides) ** 0.5
    return f"{'undecided' if abs(gain) <= SIGMAS * noise else 'appears' if gain > 0 else 'reversed'}: {values}"


def objections(claim: Claim) -> Iterator[str]:
    """Reasons against a verdict, the gravest first."""
    if len({shared(side.protocols[claim.group]) for side in claim.sides}) > 1:
        yield "measured under different protocols"
    of_samples = claim.group in claim.better.generators
    rules: list[Callable[[Claim], Iterator[str]]] = [unmatched]
    if of_samples:
        rules = [classes_unseen, unmatched, at_chance]
    for rule in rules:
        yield from rule(claim)


def classes_unseen(claim: Claim) -> Iterator[str]:
    """The encoder, or one of the decoders, keeps too little of the classes."""
    if claim.better.probe_accuracy < MIN_PROBE_ACCURACY:
        yield f"probe accuracy of the encoder is below {MIN_PROBE_ACCURACY}"
    for side in claim.sides:
        if side.groups["reconstruction"].get("class_accuracy", 1.0) < MIN_CLASS_ACCURACY:
            yield f"class accuracy of {side.name} reconstructions is below {MIN_CLASS_ACCURACY}"


def unmatched(claim: Claim) -> Iterator[str]:
    """Sizes differ, and neither bits nor PSNR match."""
    if claim.matched or not (sizes := unequal_sizes(*claim.sides)):
        return
    bits, psnr_db = [side.bits for side in claim.sides], psnrs(*claim.sides)
    also = [f"{bits[0]:.0f} and {bits[1]:.0f} bits per image" if all(bits) else "bits per image unknown"]
    also += [f"{psnr_db[0]:.1f} and {psnr_db[1]:.1f} dB"]
    matchable = claim.group != "reconstruction" and claim.worse.pixel
    yield ", ".join(sizes + (also if matchable else []))


def at_chance(claim: Claim) -> Iterator[str]:
    """The samples of a matched control, or of both sides, hardly show the class that was asked for."""
    skills = [skill(side, claim.group) for side in claim.sides]
    if claim.matched and skills[1] and skills[1][0] <= SIGMAS * skills[1][1]:
        yield f"class accuracy of {claim.worse.name} samples is at chance"
    known = [one for one in skills if one]
    if len(known) == len(skills) and max(known)[0] < MIN_SKILL:
        yield "class accuracy of both samples is near chance"


def skill(side: Candidate, group: str) -> tuple[float, float] | None:
    """Class accuracy of samples, rescaled to 0 at chance and 1 at 1, and its deviation; None without classes."""
    metrics, protocol = side.groups[group], side.protocols[group]
    if not protocol.get("per_class") or "class_accuracy" not in metrics:
        return None
    chance = protocol["per_class"]["max"] / protocol["count"]
    left = max(1 - chance, 1e-9)
    return (metrics["class_accuracy"] - chance) / left, metrics.get("class_accuracy_std", 0.0) / left
