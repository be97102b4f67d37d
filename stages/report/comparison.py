"""The tokenizers side by side: one table, and which of the expected orderings it shows.

A difference counts where it exceeds twice the deviation of a difference of the two figures, each of a single seed;
else it is undecided. Nothing is said of figures without a spread or made in different ways; of generation, before the
judge reads GATE of both tokenizers' reconstructions right, and before one of the two generators is LEARNT of the way
from chance to always showing the class asked for; "at matched rate" or "at matched PSNR", where bits or dB differ by
more than MATCHED, or where the control's samples have their class by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.report import gather
from stages.report.sections import Section, generators, likelihood, likelihood_cell
from stages.report.tables import Row, Table, comparable, number, protocol_of, shared, spread, tables

SIGMAS = 2.0
GATE = 0.9
LEARNT = 0.1
MATCHED = {"rate": 0.1, "psnr": 1.0}  # part of the larger number of bits an image; dB
STABILITY_DB = "20"

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


def comparison(reports: gather.Reports, evaluations: dict[str, Metrics], data: Metrics) -> Section:
    """One row for each tokenizer and decoder; below it the orderings. `data`: params of the images."""
    stable = {name: stability(reports, metrics) for name, metrics in evaluations.items()}
    first = next((shared(one["protocol"]) for one in stable.values() if one["protocol"]), "")
    rows = [
        row(name, metrics, stable[name] if shared(stable[name]["protocol"]) == first else {})
        for name, metrics in evaluations.items()
    ]
    text = (
        "Bits: what a generator needs for a val image, given its class; ≤ a bound. ± is the deviation between sampling "
        "seeds; for reconstructions, entropy, perplexity and bits the standard error over val images. Changed: share "
        f"of codes that differ after noise at {STABILITY_DB} dB, everywhere and where an object is, ± over noise seeds "
        "and val images; left out where it was measured in another way than in the first row that has it. Compare "
        "generators at equal bits or PSNR, not at equal K: fewer bits are easier to generate. Figures with [judge] are "
        "made in the feature space of the judge of agreement, a classifier of real images that no tokenizer knows; "
        "those in the encoder's own space, [embedded], favour semantic codes. Orderings are those that the papers "
        "expect, or controls, the first one's figure before the second's: one appears, or is reversed, where the two "
        f"differ by more than {SIGMAS:g} deviations, taken as independent. No verdict is given on generation where "
        f"the judge reads fewer than {GATE} of the reconstructions, or where the agreement of neither generator is "
        f"{LEARNT:.0%} of the way from chance to 1; none at matched rate where the bits of ar differ by "
        f"more than {MATCHED['rate']:.0%}, at matched PSNR by more than {MATCHED['psnr']:g} dB, or where the control's "
        "samples show their class by chance. Each network was trained once: what another training seed would change "
        "is not in the spread, and may be several times as much."
    )
    if data.get("source") == "scenes":
        scenes = data["scenes"]
        text += f" Scenes: nuisance {scenes['nuisance']}, up to {scenes['max_objects']} objects, "
        text += f"{scenes['patterned']:.0%} of them patterned."
    shown = tables(["tokenizer-decoder"], rows)
    return Section("Tokenizers", text, [*shown, *verdicts(reports, evaluations)])


def row(name: str, metrics: Metrics, stable: Metrics) -> Row:
    """A tokenizer's figures; its protocol is that of its reconstructions and of every generator's samples."""
    made, kind = metrics["reconstruction"], metrics["tokenizer"]
    usage = made.get("code_usage", {})
    cells = {"K": number(kind["num_codes"]), "dim": number(kind["dim"])}
    cells |= {"live": spread(usage, "live_codes"), "entropy nats": spread(usage, "entropy_nats")}
    space = "judge" if "rfid[judge]" in made else "embedded"  # images without classes have no judge
    cells |= {f"rfid[{space}]": spread(made, f"rfid[{space}]"), "PSNR dB": spread(made, "psnr_db")}
    cells |= {"agreement": spread(made, "agreement"), "changed": spread(stable, "change")}
    cells |= {"changed, foreground": spread(stable, "foreground_change")}
    protocol: Metrics = {"reconstruction": comparable(protocol_of(metrics, "reconstruction"))}
    for generator in generators(metrics):
        cells |= generator_cells(generator, metrics[generator], space)
        protocol[generator] = comparable(protocol_of(metrics, generator))
    return Row([name], cells, protocol)


def generator_cells(generator: str, figures: Metrics, space: str) -> dict[str, str]:
    """Perplexity, bits, distance, Inception score and agreement of one generator."""
    cells = {
        f"{generator} {title}": likelihood_cell(figures, key)
        for key, title in (("val_perplexity", "ppl"), ("val_bits_per_image", "bits"))
        if key in likelihood(figures)
    }
    for figure in (f"gfid[{space}]", "is[judge]", "agreement"):
        cells[f"{generator} {figure}"] = spread(figures, figure)
    return cells


def stability(reports: gather.Reports, metrics: Metrics) -> Metrics:
    """{change, change_std, …} of a tokenizer at STABILITY_DB, and the protocol; empty where it was not measured.

    The deviation is that between noise seeds and the standard error over val images together.
    """
    found = gather.read_metrics(reports / "stability" / metrics["tokenizer"]["name"]) or {}
    figures = found.get(f"snr_{STABILITY_DB}_db", {})
    noise = {
        f"{name}_std": (figures[f"{name}_std"] ** 2 + figures[f"{name}_image_std"] ** 2) ** 0.5
        for name in STABILITY
        if name in figures
    }
    return {**figures, **noise, "protocol": protocol_of(found, "stability")}


def verdicts(reports: gather.Reports, evaluations: dict[str, Metrics]) -> list[Table]:
    """A table for each kind of figures, a row for each ordering whose two tokenizers were evaluated alike."""
    by_decoder: dict[str, dict[str, Metrics]] = {}
    for name, metrics in evaluations.items():
        tokenizer = metrics["tokenizer"]["name"]
        stable = stability(reports, metrics)
        protocol = [*metrics.get("protocol", []), {**stable["protocol"], "of": "stability"}]
        figures = {**metrics, "stability": stable, "protocol": protocol}
        by_decoder.setdefault(name.removeprefix(f"{tokenizer}-"), {})[tokenizer] = figures
    shown = []
    for figures in (GENERATION, RECONSTRUCTION, STABILITY):
        rows = [
            (claim.text, claim.group if claim.group == "stability" else f"{decoder}, {claim.group}", *cells)
            for decoder, found in by_decoder.items()
            for claim in CLAIMS
            if claim.figures is figures and any(cells := verdict(claim, found))
        ]
        told_once = [list(one) for one in dict.fromkeys(rows)]  # of stability each decoder says the same
        shown += [Table(["ordering", "of", *figures, "no verdict, since"], told_once)] if rows else []
    return shown


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
    for reasons in (unlike, unread, unmatched, by_chance):
        yield from reasons(claim, found)


def unlike(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """The two figures were made in different ways."""
    ways = {shared(protocol_of(found[side], claim.group)) for side in (claim.better, claim.worse)}
    if len(ways) > 1:
        yield "made under different protocols"


def unread(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """Of generation: too few of the reconstructions show their class."""
    for side in (claim.better, claim.worse) if claim.group in GENERATORS else ():
        if found[side].get("reconstruction", {}).get("agreement", 1.0) < GATE:
            yield f"the judge reads under {GATE} of {side} reconstructions"


def unmatched(claim: Claim, found: dict[str, Metrics]) -> Iterator[str]:
    """What should be alike differs, or was not measured; bits are those of the autoregressive generator."""
    sides = [found[side] for side in (claim.better, claim.worse)]
    if claim.matched == "rate":
        bits = [side.get("ar", {}).get("likelihood", {}).get("val_bits_per_image", 0.0) for side in sides]
        if max(bits) * (1 - MATCHED["rate"]) >= min(bits):
            yield f"{bits[0]:.0f} and {bits[1]:.0f} bits an image" if all(bits) else "no ar generator tells the bits"
    if claim.matched == "psnr":
        psnr_db = [side["reconstruction"]["psnr_db"] for side in sides]
        if abs(psnr_db[0] - psnr_db[1]) > MATCHED["psnr"]:
            yield f"{psnr_db[0]:.1f} and {psnr_db[1]:.1f} dB"


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
