"""The sections of the decoder study: steps, compression, images side by side, diffusion's ladder."""

from __future__ import annotations

from statistics import variance
from typing import TYPE_CHECKING, Any

from stages.report import draw, gather, mosaic
from stages.report.sections import Picture, Section, pictures
from stages.report.tables import Row, by_protocol, number, protocol_of, spread, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = {
    "rfid[judge]": "rfid[judge]",
    "rfid[embedded]": "rfid[embedded]",
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "perceptual": "perceptual",
    "agreement": "agreement",
}
PLOTTED = ("rfid[judge]", "rfid[embedded]", "psnr_db")
ONESTEP, BASE, SIGMAS = "onestep", "diffusion", 2.0
JUDGED = ("rfid[judge]", "rfid[embedded]")
BARS = "bars: one deviation over images"
VERDICTS = (
    f"Against: the difference in rfid and its deviation, over the same resampled images and between decoding seeds; "
    f"worse or better beyond {SIGMAS:g} deviations, else undecided. Each was trained once: what another training seed "
    "would change is not in the spread."
)

Metrics = dict[str, Any]


def study(reports: gather.Reports) -> list[Section]:
    """What the sweeps found, and the ladder where there is one; empty without sweeps."""
    found = reports.named("sweep")
    return [decoders(reports, found), *ladder([*found.values()])] if found else []


def decoders(reports: gather.Reports, found: dict[str, Metrics]) -> Section:
    """Every decoder at every number of steps: table, plots, the same images through all."""
    text = (
        "Val images through tokenizer and decoder. Steps: those of diffusion, MaskGIT steps of masked renderers; * is "
        "the decoder's own setting, – a kind without it. ± by bootstrap over images; where the decoder draws at "
        "random, figures are means over decoding seeds, with the deviation between them. rfid is the distance to the "
        "same images before the tokenizer, perceptual that of the encoder's patch features, which decoders are "
        "trained for where perceptual_weight is not 0. Bits: of fixed length, tokens an image times log2 of the codes "
        "that each may be (a generator needs fewer). GFLOP an image is the cost of decoding; images a second are not "
        f"the same twice and stand in LOG.md (benchmarks/decoders.py). {VERDICTS}"
    )
    bases = {one["decoder"]["tokenizer"]: one for one in found.values() if one["decoder"]["name"] == ONESTEP}
    rows = [
        Row(
            [*of(metrics), steps_told(metrics, level)],
            against(metrics, level, bases.get(of(metrics)[0], metrics)) | cells(metrics, level),
            protocol_of(metrics, "sweep"),
        )
        for metrics in found.values()
        for level in levels(metrics)
    ]
    groups = by_protocol(found, "sweep")
    shown = [picture for group in groups for picture in (*plots(group), *mosaic.side_by_side(reports / "sweep", group))]
    shown += pictures({f"{name}: {told(metrics)}": reports / "sweep" / name / "steps.png"
                       for name, metrics in found.items()})  # fmt: skip
    return Section("Decoders", text, tables(["tokenizer", "decoder", "steps"], rows), shown)


def of(metrics: Metrics) -> list[str]:
    """Whose codes, and which decoder."""
    return [metrics["decoder"]["tokenizer"], metrics["decoder"]["name"]]


def levels(metrics: Metrics) -> list[str]:
    """The groups of figures, from few steps to many."""
    return [name for name in metrics if name == "once" or name.startswith("steps_")]


def steps_told(metrics: Metrics, level: str) -> str:
    """A number of steps as the page shows it."""
    steps = level.removeprefix("steps_")
    return "–" if level == "once" else f"{steps} *" if level == own_level(metrics) else steps


def own_level(metrics: Metrics) -> str:
    """The group of figures at the decoder's own setting."""
    steps = metrics["decoder"].get("steps")
    return "once" if steps is None else f"steps_{steps}"


def cells(metrics: Metrics, level: str) -> dict[str, str]:
    """All scores at one number of steps, and what does not depend on it."""
    scores = {title: both_spreads(metrics[level], key) for key, title in FIGURES.items() if key in metrics[level]}
    scores["GFLOP an image"] = f"{metrics[level]['gflop_an_image']:.3g}"
    codes = metrics["codes"]
    sizes = {"parameters": metrics["decoder"]["parameters"], "tokens": codes["tokens"], "K": codes["num_codes"]}
    return scores | {title: number(size) for title, size in sizes.items()} | {"bits": f"{codes['bits_an_image']:,.0f}"}


def both_spreads(figures: Metrics, key: str) -> str:
    """A figure with its deviation over images and, if there is one, between decoding seeds."""
    seeds = figures.get(f"{key}_seed_std")
    return spread(figures, key) + (f", seeds ± {seeds:.2g}" if seeds is not None else "")


def told(metrics: Metrics) -> str:
    """What the columns of a picture are."""
    columns = protocol_of(metrics, "steps.png")["columns"]
    if columns[-1] == "once":
        return "original, reconstruction"
    return ", ".join(column.replace("steps_", "") for column in columns) + " steps"


def plots(group: dict[str, Metrics]) -> list[Picture]:
    """Scores against steps if a decoder takes any, against bits if tokenizers differ in them."""
    figures = [key for key in PLOTTED if all(key in one[own_level(one)] for one in group.values())]
    shown = []
    if any(own_level(one) != "once" for one in group.values()):
        shown += [by_steps(figures, own, tokenizer) for tokenizer, own in by_tokenizer(group).items()]
    if len({one["codes"]["bits_an_image"] for one in group.values()}) > 1:
        curves = {FIGURES[key]: against_bits(key, group) for key in figures}
        caption = f"By compression, at each decoder's own steps; {BARS}"
        shown.append(Picture(draw.bands(curves, "bits an image", by_ratio, JUDGED), caption))
    return shown


def by_tokenizer(group: dict[str, Metrics]) -> dict[str, dict[str, Metrics]]:
    """The group's decoders, of each tokenizer apart."""
    found: dict[str, dict[str, Metrics]] = {}
    for name, metrics in group.items():
        found.setdefault(metrics["decoder"]["tokenizer"], {})[name] = metrics
    return found


def by_steps(figures: list[str], own: dict[str, Metrics], tokenizer: str) -> Picture:
    """Scores of one tokenizer's decoders against steps."""
    lines = {FIGURES[key]: {of(one)[1]: against_steps(key, one, own) for one in own.values()} for key in figures}
    shown = draw.bands(lines, "decoding steps; flat: a decoder without them", by_ratio, JUDGED)
    return Picture(shown, f"Codes of {tokenizer}, by steps; {BARS}")


def by_ratio(axis: Axes) -> None:
    """Equal ratios of x at equal distances."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def against_steps(key: str, metrics: Metrics, group: dict[str, Metrics]) -> draw.Band:
    """A figure by steps; that of a decoder without steps from the fewest to the most of the others."""
    numbers = {int(level.removeprefix("steps_")) for one in group.values() for level in levels(one) if level != "once"}
    numbers = numbers or {1}
    if own_level(metrics) == "once":
        return band(key, [(steps, metrics["once"]) for steps in (min(numbers), max(numbers))])
    return band(key, [(int(level.removeprefix("steps_")), metrics[level]) for level in levels(metrics)])


def against_bits(key: str, group: dict[str, Metrics]) -> dict[str, draw.Band]:
    """{decoder and kind of tokenizer: a figure by bits, over the tokenizers of that kind}.

    Of those with equal bits, which differ in something else, the first is on the line; others have one of their own.
    """
    found: dict[str, list[tuple[float, Metrics]]] = {}
    for metrics in group.values():
        decoder, bits = metrics["decoder"]["name"], metrics["codes"]["bits_an_image"]
        name = f"{decoder} of {metrics['codes']['kind']}"
        if any(x == bits for x, _ in found.get(name, [])):
            name = f"{decoder} of {metrics['decoder']['tokenizer']}"
        found.setdefault(name, []).append((bits, metrics[own_level(metrics)]))
    return {name: band(key, line) for name, line in found.items()}


def band(key: str, points: list[tuple[float, Metrics]]) -> draw.Band:
    """x in order, the figure and its deviation."""
    points = sorted(points, key=lambda point: point[0])
    return [x for x, _ in points], [one[key] for _, one in points], [one[f"{key}_std"] for _, one in points]


def ladder(found: list[Metrics]) -> list[Section]:
    """Diffusion decoders that differ in one thing from the one of that name; nothing if there is but one."""
    bases = {one["decoder"]["tokenizer"]: one for one in found if one["decoder"]["name"] == BASE}
    rungs = [one for one in found if one["decoder"]["kind"] == BASE and one["decoder"]["tokenizer"] in bases]
    if len(rungs) == len(bases):
        return []
    text = (
        f"Each variant differs from `{BASE}` in what its name says (its section in params.yaml). Figures at its own "
        f"steps. {VERDICTS} In epsilon-VAE's own ladder (ImageNet, 128 px) rectified flow after DDPM, logit-normal "
        "times, the perceptual and the adversarial term, the scale .6 and log spacing each lowered rFID; AdaGN did as "
        "well as concatenation."
    )
    rows = [
        Row(of(one), rung(one, bases[one["decoder"]["tokenizer"]]), protocol_of(one, "sweep"))
        for one in sorted(rungs, key=lambda one: (of(one)[0], of(one)[1] != BASE))
    ]
    return [Section("Ladder of the diffusion decoder", text, tables(["tokenizer", "variant"], rows))]


def rung(metrics: Metrics, base: Metrics) -> dict[str, str]:
    """How a variant's rfid compares, and its figures."""
    own = metrics[own_level(metrics)]
    found = against(metrics, own_level(metrics), base)
    found["steps"] = number(metrics["decoder"]["steps"])
    found |= {title: both_spreads(own, key) for key, title in FIGURES.items() if key in own}
    return found


def against(metrics: Metrics, level: str, base: Metrics) -> dict[str, str]:
    """How rfid at a number of steps compares with another decoder's; nothing under another protocol."""
    protocol = protocol_of(metrics, "sweep")
    if metrics is base or protocol != protocol_of(base, "sweep"):
        return {}
    seeds = len(protocol["decoding_seeds"])
    own, other, name = metrics[level], base[own_level(base)], base["decoder"]["name"]
    return {f"{key}: against {name}": verdict(own, other, key, seeds) for key in JUDGED if key in own}


def verdict(own: Metrics, other: Metrics, key: str, seeds: int) -> str:
    """How much more the figure is, with its deviation, and: better | worse | undecided. Less is better.

    Deviations are of the difference of bootstrap draws, which are of the same images, and of means over `seeds`.
    """
    pairs = zip(own["bootstrap"][key], other["bootstrap"][key], strict=True)
    variances = [variance(mine - theirs for mine, theirs in pairs)]
    variances += [one.get(f"{key}_seed_std", 0.0) ** 2 / seeds for one in (own, other)]
    gain, noise = other[key] - own[key], sum(variances) ** 0.5
    said = "undecided" if abs(gain) <= SIGMAS * noise else "better" if gain > 0 else "worse"
    return f"{said}: {-gain:+.3g} ± {noise:.2g}"
