"""The tokenizers side by side: one table, and which of the expected orderings it shows.

A difference counts where it exceeds twice the deviation of a difference of the two figures, each of a single seed;
else it is undecided. Of generation nothing is said before the judge reads GATE of both tokenizers' reconstructions
right. Nor is anything said "at matched rate" or "at matched PSNR" where bits or dB differ by more than MATCHED, or
where the control's samples have their class by chance; nor of figures without a spread or made in different ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.report import gather
from stages.report.sections import Section, generators
from stages.report.tables import Row, Table, comparable, number, protocol_of, shared, spread, tables

SIGMAS = 2.0
GATE = 0.9
MATCHED = {"rate": 0.1, "psnr": 1.0}  # part of the larger number of bits an image; dB
STABILITY_DB = "20"

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """An ordering of the papers or a control's: `better` before `worse` in a figure; `sign` +1 where more is better,
    -1 where less is.

    `matched` says in what both must be alike: "rate", "psnr" or nothing.
    """

    text: str
    better: str
    worse: str
    figure: str
    sign: int
    matched: str = ""


RATED = [("gfid[judge]", -1), ("agreement", 1)]
GENERATED = [*RATED, ("is[judge]", 1)]
SEMANTIC, GENERATORS = ("kmeans", "cluster", "vqkd"), ("ar", "masked")
CLAIMS = [
    *(Claim(f"{better} codes generate better than vqgan codes", better, "vqgan", f"{kind}.{figure}", sign)
      for better in SEMANTIC for kind in GENERATORS for figure, sign in GENERATED),
    *(Claim(f"at matched rate {better} codes generate better", better, "vq_rate", f"{kind}.{figure}", sign, "rate")
      for better in SEMANTIC for kind in GENERATORS for figure, sign in RATED),
    Claim("at matched PSNR kmeans codes generate better", "kmeans", "vq_psnr", "ar.gfid[judge]", -1, "psnr"),
    Claim("at matched PSNR kmeans codes generate better", "kmeans", "vq_psnr", "ar.agreement", 1, "psnr"),
    Claim("trained features make better codes than random ones", "kmeans", "kmeans_random", "ar.gfid[judge]", -1),
    Claim("trained features make better codes than random ones", "kmeans", "kmeans_random", "ar.agreement", 1),
    Claim("pixel codes reconstruct better", "vqgan", "kmeans", "reconstruction.psnr_db", 1),
    Claim("pixel codes reconstruct better", "fsq", "kmeans", "reconstruction.psnr_db", 1),
    Claim("kmeans codes are more stable under noise", "kmeans", "vqgan", "stability.change", -1),
    Claim("kmeans codes are more stable than vqgan's at matched rate", "kmeans", "vq_rate", "stability.change", -1,
          "rate"),
    Claim("training for noise does not close the gap", "kmeans", "vq_noise", "stability.change", -1),
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
        f"of codes that differ after noise at {STABILITY_DB} dB, ± over noise seeds and val images; left out where it "
        "was measured in another way than in the first row that has it. Compare generators at equal bits or PSNR, not "
        "at equal K: fewer bits are easier to generate. Figures with [judge] are made in the feature space of the "
        "judge of agreement, a classifier of real images that no tokenizer knows; those in the encoder's own space, "
        "[embedded], favour semantic codes. Orderings are those that the papers expect, or controls: one appears, or "
        f"is reversed, where the two figures differ by more than {SIGMAS:g} deviations, taken as independent; there is "
        f"no verdict on generation where the judge reads fewer than {GATE} of the reconstructions. Each network was "
        "trained once: what another training seed would change is not in the spread."
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
    protocol: Metrics = {"reconstruction": comparable(protocol_of(metrics, "reconstruction"))}
    for generator in generators(metrics):
        cells |= generator_cells(generator, metrics[generator], space)
        protocol[generator] = comparable(protocol_of(metrics, generator))
    return Row([name], cells, protocol)


def generator_cells(generator: str, figures: Metrics, space: str) -> dict[str, str]:
    """Perplexity, bits, distance, Inception score and agreement of one generator."""
    likelihood = figures.get("likelihood", {})
    mark = "≤ " if likelihood.get("bound") == "upper" else ""
    cells = {
        f"{generator} {title}": mark + spread(likelihood, key)
        for key, title in (("val_perplexity", "ppl"), ("val_bits_per_image", "bits"))
        if key in likelihood
    }
    for figure in (f"gfid[{space}]", "is[judge]", "agreement"):
        cells[f"{generator} {figure}"] = spread(figures, figure)
    return cells


def stability(reports: gather.Reports, metrics: Metrics) -> Metrics:
    """{change, change_std} of a tokenizer at STABILITY_DB, and the protocol; empty where it was not measured.

    The deviation is that between noise seeds and the standard error over val images together.
    """
    found = gather.read_metrics(reports / "stability" / metrics["tokenizer"]["name"]) or {}
    figures, spreads = found.get(f"snr_{STABILITY_DB}_db", {}), ("change_std", "change_image_std")
    noise = {"change_std": sum(figures[key] ** 2 for key in spreads) ** 0.5} if figures else {}
    return {**figures, **noise, "protocol": protocol_of(found, "stability")}


def verdicts(reports: gather.Reports, evaluations: dict[str, Metrics]) -> list[Table]:
    """A row for each of the orderings whose two tokenizers were both evaluated, with the same decoder."""
    by_decoder: dict[str, dict[str, Metrics]] = {}
    for name, metrics in evaluations.items():
        tokenizer = metrics["tokenizer"]["name"]
        stable = stability(reports, metrics)
        protocol = [*metrics.get("protocol", []), {**stable["protocol"], "of": "stability"}]
        figures = {**metrics, "stability": stable, "protocol": protocol}
        by_decoder.setdefault(name.removeprefix(f"{tokenizer}-"), {})[tokenizer] = figures
    rows = [
        [claim.text, cells[-1], f"{decoder}: {claim.figure}", *cells[:-1]]
        for decoder, found in by_decoder.items()
        for claim in CLAIMS
        if (cells := verdict(claim, found))
    ]
    heads = ["ordering", "here", "figure", "first", "second"]
    return [Table(heads, rows)] if rows else []


def verdict(claim: Claim, found: dict[str, Metrics]) -> list[str]:
    """The two figures and whether the ordering appears, is reversed, undecided or not to be said; [] without both."""
    group, _, name = claim.figure.partition(".")
    sides = [found.get(side, {}).get(group, {}) for side in (claim.better, claim.worse)]
    if any(name not in side for side in sides):
        return []
    gain = claim.sign * (sides[0][name] - sides[1][name])
    noise = sum(side.get(f"{name}_std", 0.0) ** 2 for side in sides) ** 0.5
    said = "undecided" if abs(gain) <= SIGMAS * noise else "appears" if gain > 0 else "reversed"
    objections = [
        *unlike(claim, found, group), *unread(claim, found, group), *unmatched(claim, found),
        *by_chance(claim, found, group), *unspread(sides, name),
    ]  # fmt: skip
    said = f"no verdict: {objections[0]}" if objections else said
    return [f"{claim.better} {spread(sides[0], name)}", f"{claim.worse} {spread(sides[1], name)}", said]


def unspread(sides: list[Metrics], name: str) -> Iterator[str]:
    """A figure of one seed alone has no deviation to compare with."""
    if any(f"{name}_std" not in side for side in sides):
        yield "one seed has no spread"


def unlike(claim: Claim, found: dict[str, Metrics], group: str) -> Iterator[str]:
    """The two figures were made in different ways."""
    ways = {shared(protocol_of(found[side], group)) for side in (claim.better, claim.worse)}
    if len(ways) > 1:
        yield "made under different protocols"


def unread(claim: Claim, found: dict[str, Metrics], group: str) -> Iterator[str]:
    """Of generation: too few of the reconstructions show their class."""
    for side in (claim.better, claim.worse) if group in GENERATORS else ():
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


def by_chance(claim: Claim, found: dict[str, Metrics], group: str) -> Iterator[str]:
    """Of generation at matched rate or PSNR: the control's samples show the class asked for no more often than by
    chance."""
    figures, made = found[claim.worse].get(group, {}), protocol_of(found[claim.worse], group)
    if claim.matched and made.get("per_class") and "agreement" in figures:
        chance = made["per_class"]["max"] / made["count"]
        if figures["agreement"] - SIGMAS * figures.get("agreement_std", 0.0) <= chance:
            yield f"samples of {claim.worse} show their class by chance"
