"""Sections of the studies of decoders: decoding steps, variants of diffusion, transfer to larger images."""

from statistics import variance

from stages.report import plots
from stages.report.gather import Metrics, Reports
from stages.report.plots import Picture, pictures
from stages.report.sections import Section
from stages.report.tables import Row, by_protocol, number, protocol_of, spread, tables

METRICS = {
    "rfid[classifier]": "rfid[classifier]",
    "rfid[embedded]": "rfid[embedded]",
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "perceptual": "perceptual",
    "class_accuracy": "class accuracy",
}
COMPARED = ("rfid[classifier]", "rfid[embedded]")  # also with logarithmic axes
PLOTTED = (*COMPARED, "psnr_db")
SIGMAS = 2.0
BARS = "bars: one deviation over images"


def study(reports: Reports) -> list[Section]:
    """All decoders at all numbers of steps, and the variants of diffusion if there are any; empty without metrics."""
    found = reports.metrics("decoding_steps")
    return [decoding_steps(reports, found), *diffusion_variants(found)] if found else []


def decoding_steps(reports: Reports, found: dict[str, Metrics]) -> Section:
    """Every decoder at every number of steps: table, plots, the same images through all."""
    bases = first_of_kind("onestep", found)
    rows = [
        Row(
            [*names_of(metrics), steps_cell(metrics, group)],
            comparison_cells(metrics, group, bases.get(names_of(metrics)[0], metrics)) | cells(metrics, group),
            protocol_of(metrics, "decoding_steps"),
        )
        for metrics in found.values()
        for group in step_groups(metrics)
    ]
    files = {name: reports.folder("decoding_steps", name) / "steps.png" for name in found}
    shown = [
        picture
        for group in by_protocol(found, "decoding_steps")
        for picture in (*metric_plots(group), *plots.side_by_side(group, files))
    ]
    shown += pictures({f"{name}: {columns_of(metrics)}": files[name] for name, metrics in found.items()})
    heads = ["tokenizer", "decoder", "steps"]
    return Section("decoding_steps", "Decoders", {"sigmas": SIGMAS}, tables(heads, rows), shown)


def first_of_kind(kind: str, found: dict[str, Metrics]) -> dict[str, Metrics]:
    """{tokenizer: its first decoder of a kind}, in the order of `decoders`."""
    own = [one for one in found.values() if one["decoder"]["kind"] == kind]
    return {names_of(one)[0]: one for one in reversed(own)}


def names_of(metrics: Metrics) -> list[str]:
    """Tokenizer and decoder."""
    return [metrics["decoder"]["tokenizer"], metrics["decoder"]["name"]]


def step_groups(metrics: Metrics) -> list[str]:
    """The groups of metrics, from few steps to many."""
    return [name for name in metrics if name == "once" or name.startswith("steps_")]


def steps_cell(metrics: Metrics, group: str) -> str:
    """A number of steps as the page shows it."""
    steps = group.removeprefix("steps_")
    return "–" if group == "once" else f"{steps} *" if group == own_group(metrics) else steps


def own_group(metrics: Metrics) -> str:
    """The group of metrics at the decoder's own number of steps."""
    steps = metrics["decoder"].get("steps")
    return "once" if steps is None else f"steps_{steps}"


def cells(metrics: Metrics, group: str) -> dict[str, str]:
    """All metrics at one number of steps, and the sizes of the decoder and of its codes."""
    own, codes = metrics[group], metrics["codes"]
    found = {title: both_spreads(own, key) for key, title in METRICS.items() if key in own}
    found["GFLOP per image"] = f"{own['gflop_per_image']:.3g}"
    sizes = {"parameters": metrics["decoder"]["parameters"], "tokens": codes["tokens"], "K": codes["num_codes"]}
    return found | {title: number(size) for title, size in sizes.items()} | {"bits": f"{codes['bits_per_image']:,.0f}"}


def both_spreads(metrics: Metrics, key: str) -> str:
    """A metric with its deviation over images and, if there is one, between decoding seeds."""
    seeds = metrics.get(f"{key}_seed_std")
    return spread(metrics, key) + (f", seeds ± {seeds:.2g}" if seeds is not None else "")


def columns_of(metrics: Metrics) -> str:
    """What the columns of steps.png are."""
    columns = protocol_of(metrics, "steps.png")["columns"]
    if columns[-1] == "once":
        return "original, reconstruction"
    return ", ".join(column.replace("steps_", "") for column in columns) + " steps"


def metric_plots(group: dict[str, Metrics]) -> list[Picture]:
    """Metrics against steps if a decoder takes any, against bits if tokenizers differ in them."""
    names = [key for key in PLOTTED if all(key in one[own_group(one)] for one in group.values())]
    shown = []
    if any(own_group(one) != "once" for one in group.values()):
        shown += [plot_by_steps(names, own, tokenizer) for tokenizer, own in by_tokenizer(group).items()]
    if len({one["codes"]["bits_per_image"] for one in group.values()}) > 1:
        lines = {METRICS[key]: against_bits(key, group) for key in names}
        caption = f"By bits per image, each decoder at its own number of steps; {BARS}"
        shown.append(Picture(plots.bands(lines, "bits per image", plots.log2_ticks, COMPARED), caption, plot=True))
    return shown


def by_tokenizer(group: dict[str, Metrics]) -> dict[str, dict[str, Metrics]]:
    """The decoders of each tokenizer."""
    found: dict[str, dict[str, Metrics]] = {}
    for name, metrics in group.items():
        found.setdefault(metrics["decoder"]["tokenizer"], {})[name] = metrics
    return found


def plot_by_steps(names: list[str], own: dict[str, Metrics], tokenizer: str) -> Picture:
    """Metrics of one tokenizer's decoders against steps."""
    lines = {METRICS[key]: {names_of(one)[1]: against_steps(key, one, own) for one in own.values()} for key in names}
    shown = plots.bands(lines, "decoding steps; flat: a decoder without steps", plots.log2_ticks, COMPARED)
    return Picture(shown, f"Codes of {tokenizer}, by decoding steps; {BARS}", plot=True)


def against_steps(key: str, metrics: Metrics, group: dict[str, Metrics]) -> plots.Band:
    """A metric by steps; that of a decoder without steps from the fewest to the most of the others."""
    numbers = {steps_of(name) for one in group.values() for name in step_groups(one) if name != "once"} or {1}
    if own_group(metrics) == "once":
        return band(key, [(steps, metrics["once"]) for steps in (min(numbers), max(numbers))])
    return band(key, [(steps_of(name), metrics[name]) for name in step_groups(metrics)])


def steps_of(group: str) -> int:
    """The number in steps_<number>."""
    return int(group.removeprefix("steps_"))


def against_bits(key: str, group: dict[str, Metrics]) -> dict[str, plots.Band]:
    """{decoder and kind of tokenizer: a metric by bits, over the tokenizers of that kind}.

    Of tokenizers with equal bits, the first is on the line of its kind; each other one gets a line of its own.
    """
    found: dict[str, list[tuple[float, Metrics]]] = {}
    for metrics in group.values():
        decoder, bits = metrics["decoder"]["name"], metrics["codes"]["bits_per_image"]
        name = f"{decoder} of {metrics['codes']['kind']}"
        if any(x == bits for x, _ in found.get(name, [])):
            name = f"{decoder} of {metrics['decoder']['tokenizer']}"
        found.setdefault(name, []).append((bits, metrics[own_group(metrics)]))
    return {name: band(key, line) for name, line in found.items()}


def band(key: str, points: list[tuple[float, Metrics]]) -> plots.Band:
    """x in order, the metric and its deviation."""
    points = sorted(points, key=lambda point: point[0])
    return [x for x, _ in points], [one[key] for _, one in points], [one[f"{key}_std"] for _, one in points]


def diffusion_variants(found: dict[str, Metrics]) -> list[Section]:
    """Decoders of kind diffusion against the first of them in `decoders`; empty if each tokenizer has only one."""
    bases = first_of_kind("diffusion", found)
    variants = [one for one in found.values() if one["decoder"]["kind"] == "diffusion"]
    if len(variants) == len(bases):
        return []
    rows = [
        Row(names_of(one), variant_cells(one, bases[names_of(one)[0]]), protocol_of(one, "decoding_steps"))
        for one in variants
    ]
    facts = {"sigmas": SIGMAS, "bases": sorted({names_of(one)[1] for one in bases.values()})}
    title = "Variants of the diffusion decoder"
    return [Section("diffusion_variants", title, facts, tables(["tokenizer", "variant"], rows))]


def variant_cells(metrics: Metrics, base: Metrics) -> dict[str, str]:
    """How a variant's rfid compares, and its metrics at its own number of steps."""
    own = metrics[own_group(metrics)]
    found = comparison_cells(metrics, own_group(metrics), base) | {"steps": number(metrics["decoder"]["steps"])}
    return found | {title: both_spreads(own, key) for key, title in METRICS.items() if key in own}


def comparison_cells(metrics: Metrics, group: str, base: Metrics) -> dict[str, str]:
    """How rfid at a number of steps compares with another decoder's; empty under another protocol."""
    protocol = protocol_of(metrics, "decoding_steps")
    if metrics is base or protocol != protocol_of(base, "decoding_steps"):
        return {}
    seeds = len(protocol["decoding_seeds"])
    own, other, name = metrics[group], base[own_group(base)], base["decoder"]["name"]
    return {f"{key}: against {name}": verdict(own, other, key, seeds) for key in COMPARED if key in own}


def verdict(own: Metrics, other: Metrics, key: str, seeds: int) -> str:
    """better, worse or undecided, where less is better, with the difference and its standard deviation.

    Its variance is that of the paired differences of bootstrap draws plus those of both means over `seeds`.
    """
    pairs = zip(own["bootstrap"][key], other["bootstrap"][key], strict=True)
    variances = [variance(mine - theirs for mine, theirs in pairs)]
    variances += [one.get(f"{key}_seed_std", 0.0) ** 2 / seeds for one in (own, other)]
    gain, noise = other[key] - own[key], sum(variances) ** 0.5
    said = "undecided" if abs(gain) <= SIGMAS * noise else "better" if gain > 0 else "worse"
    return f"{said}: {-gain:+.3g} ± {noise:.2g}"


def resolution_transfer(reports: Reports) -> Section | None:
    """Convolutional networks on images larger than those of their training."""
    found = reports.metrics("resolution_transfer")
    measured = {name: metrics for name, metrics in found.items() if "skipped" not in metrics}
    facts = {"measured": bool(measured), "skipped": [one["skipped"] for one in found.values() if "skipped" in one]}
    rows: dict[tuple[str, str], Row] = {}
    for one in measured.values():
        for key, name in (("decoder", one["name"]), ("joint", "joint")):
            label = (one["tokenizer"], name)
            rows.setdefault(label, Row([*label], scale_cells(one[key]), protocol_of(one, "resolution_transfer")))
    shown = pictures({
        f"{name}: at each scale the original, this decoder, the joint decoder":
            reports.folder("resolution_transfer", name) / "pictures" / "scales.png"
        for name in measured
    })  # fmt: skip
    shared = tables(["tokenizer", "decoder"], [*rows.values()])
    return Section("resolution_transfer", "Resolution transfer", facts, shared, shown) if found else None


def scale_cells(scales: Metrics) -> dict[str, str]:
    """PSNR and SSIM, scale by scale."""
    return {
        f"{scale.removeprefix('scale_')}x {title}": spread(metrics, key)
        for key, title in (("psnr_db", "PSNR dB"), ("ssim", "SSIM"))
        for scale, metrics in scales.items()
    }
