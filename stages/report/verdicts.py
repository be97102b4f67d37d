"""The orderings that the papers expect, or controls, and whether the tokenizers compared show them.

A difference counts where it exceeds twice the deviation of a difference of the two figures, each of a single seed;
else it is undecided. Nothing is said of figures without a spread or made in different ways; of generation, before a
linear probe reads PROBED of val images from the encoder's features and the judge GATE of both tokenizers'
reconstructions, and before one of the two generators is LEARNT of the way from chance to always showing the class
asked for; "at matched rate" or "at matched PSNR", where bits or dB differ by more than MATCHED, or where the
control's samples have their class by chance; of any other two, where the sizes of their codebooks or the codes of an
image do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.report.tables import Table, protocol_of, shared, spread

SIGMAS = 2.0
PROBED = 0.6
GATE = 0.9
LEARNT = 0.1
MATCHED = {"rate": 0.1, "psnr": 1.0, "codes": 0.1}  # share of the larger number of bits; dB; share of codes

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """An ordering of the papers or a control's: `better` before `worse` in the figures of a group of metrics.

    `figures` {name: +1 where more is better, -1 where less is}; `matched` says in what both must be alike: "rate",
    "psnr" or nothing.
    """

    text: str
    better: str
    worse: str
    group: str
    figures: dict[str, int]
    matched: str = ""


GENERATION = {"gfid[judge]": -1, "agreement": 1, "is[judge]": 1}
RECONSTRUCTION = {"psnr_db": 1, "rfid[judge]": -1}
STABILITY = {"change": -1, "foreground_change": -1}
SEMANTIC, PIXEL, GENERATORS = ("kmeans", "cluster", "vqkd"), ("vqgan", "fsq"), ("ar", "masked")
CONTROLS = {"vq_rate": "rate", "vq_psnr": "psnr"}
TOLD = {"": "", "rate": "at matched rate ", "psnr": "at matched PSNR "}
CLAIMS = [
    *(Claim(f"{better} codes generate better than {worse} codes", better, worse, kind, GENERATION)
      for better in SEMANTIC for worse in PIXEL for kind in GENERATORS),
    *(Claim(f"{TOLD[like]}{better} codes generate better than {worse} codes", better, worse, kind, GENERATION, like)
      for worse, like in CONTROLS.items() for better in SEMANTIC for kind in GENERATORS),
    *(Claim("kmeans codes of trained features generate better than of random ones", "kmeans", "kmeans_random", kind,
            GENERATION) for kind in GENERATORS),
    *(Claim(f"{better} codes reconstruct better than {worse} codes", better, worse, "reconstruction", RECONSTRUCTION)
      for better in PIXEL for worse in SEMANTIC),
    *(Claim(f"{TOLD[like]}kmeans codes are more stable than {worse} codes", "kmeans", worse, "stability", STABILITY,
            like)
      for worse, like in {**dict.fromkeys((*PIXEL, "vqkd", "vq_noise", "kmeans_random"), ""), **CONTROLS}.items()),
]  # fmt: skip


def verdicts(evaluations: dict[str, Metrics], stable: dict[str, Metrics], probed: float) -> list[Table]:
    """A table for each kind of figures, a row for each ordering whose two tokenizers were evaluated alike.

    `stable` are figures under noise with their protocol, by the names of `evaluations`; `probed` is what a linear probe
    of the encoder's features reads.
    """
    by_decoder: dict[str, dict[str, Metrics]] = {}
    for name, metrics in evaluations.items():
        tokenizer = metrics["tokenizer"]["name"]
        protocol = [*metrics.get("protocol", []), {**stable[name]["protocol"], "of": "stability"}]
        figures = {**metrics, "probed": probed, "stability": stable[name], "protocol": protocol}
        by_decoder.setdefault(name.removeprefix(f"{tokenizer}-"), {})[tokenizer] = figures
    shown = []
    for figures in (GENERATION, RECONSTRUCTION, STABILITY):
        rows = [
            (claim.text, "stability" if told_of_codes(claim) else f"{decoder}, {claim.group}", *cells)
            for decoder, found in by_decoder.items()
            for claim in CLAIMS
            if claim.figures is figures and any(cells := verdict(claim, found))
        ]
        told_once = [list(one) for one in dict.fromkeys(rows)]  # of codes alone each decoder says the same
        shown += [Table(["ordering", "of", *figures, "no verdict, since"], told_once)] if rows else []
    return shown


def told_of_codes(claim: Claim) -> bool:
    """Is nothing in it a decoder's?"""
    return claim.group == "stability" and claim.matched != "psnr"


def verdict(claim: Claim, found: dict[str, Metrics]) -> list[str]:
    """A cell for each figure, the two values and what they say, and one why that is nothing; all empty without both."""
    sides = [found.get(side, {}).get(claim.group, {}) for side in (claim.better, claim.worse)]
    both = [name for name in claim.figures if all(name in side for side in sides)]
    objection = next(objections(claim, found), "") if both else ""
    cells = [told(sides, name, claim.figures[name], bool(objection)) if name in both else "" for name in claim.figures]
    return [*cells, objection]


def told(sides: list[Metrics], name: str, sign: int, silent: bool) -> str:
    """Both values of one figure; before them, unless `silent`, which ordering they are."""
    values = ", ".join(spread(side, name) for side in sides)
    if silent:
        return values
    if any(f"{name}_std" not in side for side in sides):
        return f"no spread: {values}"
    gain = sign * (sides[0][name] - sides[1][name])
    noise = sum(side[f"{name}_std"] ** 2 for side in sides) ** 0.5
    said = "undecided" if abs(gain) <= SIGMAS * noise else "appears" if gain > 0 else "reversed"
    return f"{said}: {values}"


def objections(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """Why a claim cannot be judged, if it cannot."""
    for reasons in (unlike, unread, unmatched, unequal, by_chance):
        yield from reasons(claim, found)


def unlike(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """The two figures were made in different ways."""
    ways = {shared(protocol_of(found[side], claim.group)) for side in (claim.better, claim.worse)}
    if len(ways) > 1:
        yield "made under different protocols"


def unread(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """Of generation: too few of the features, or of the reconstructions, show their class."""
    if claim.group not in GENERATORS:
        return
    if found[claim.better].get("probed", 1.0) < PROBED:
        yield f"a linear probe of the encoder reads under {PROBED} of val images"
    for side in (claim.better, claim.worse):
        if found[side].get("reconstruction", {}).get("agreement", 1.0) < GATE:
            yield f"the judge reads under {GATE} of {side} reconstructions"


def unmatched(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """What should be alike differs, or was not measured; bits are those of the autoregressive generator."""
    sides = [found[side] for side in (claim.better, claim.worse)]
    if claim.matched == "rate":
        bits = [side.get("ar", {}).get("likelihood", {}).get("val_bits_per_image", 0.0) for side in sides]
        if not all(bits) or max(bits) * (1 - MATCHED["rate"]) > min(bits):
            yield f"{bits[0]:.0f} and {bits[1]:.0f} bits an image" if all(bits) else "no ar generator tells the bits"
    if claim.matched == "psnr":
        psnr_db = [side["reconstruction"]["psnr_db"] for side in sides]
        if abs(psnr_db[0] - psnr_db[1]) > MATCHED["psnr"]:
            yield f"{psnr_db[0]:.1f} and {psnr_db[1]:.1f} dB"


def unequal(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """Of two that nothing matches: codebooks of other sizes, or images of other numbers of codes."""
    for key, unit in () if claim.matched else (("num_codes", "codes"), ("codes", "codes an image")):
        counts = [found[side].get("tokenizer", {}).get(key, 1) for side in (claim.better, claim.worse)]
        if max(counts) * (1 - MATCHED["codes"]) > min(counts):
            yield f"{counts[0]} and {counts[1]} {unit}"


def by_chance(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """Of generation: the control's samples, or both sides', hardly show the class that was asked for."""
    if claim.group not in GENERATORS:
        return
    skills = {side: skill(found[side], claim.group) for side in (claim.better, claim.worse)}
    known = [one for one in skills.values() if one]
    control = skills[claim.worse]
    if claim.matched and control and control[0] <= SIGMAS * control[1]:
        yield f"samples of {claim.worse} show their class by chance"
    if len(known) == len(skills) and max(known)[0] < LEARNT:
        yield "samples of neither show their class much more often than by chance"


def skill(metrics: Metrics, group: str) -> tuple[float, float] | None:
    """Where agreement stands between chance, 0, and always, 1, and its deviation; None without classes."""
    figures, made = metrics.get(group, {}), protocol_of(metrics, group)
    if not made.get("per_class") or "agreement" not in figures:
        return None
    chance = made["per_class"]["max"] / made["count"]
    left = max(1 - chance, 1e-9)
    return (figures["agreement"] - chance) / left, figures.get("agreement_std", 0.0) / left
