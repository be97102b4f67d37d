"""Sections of the studies of codes: code analysis, ablation, noise robustness, PCA and LDA."""

from functools import partial

from matplotlib.axes import Axes

from stages.report import plots
from stages.report.galleries import code_maps
from stages.report.gather import Evaluation, Metrics, Reports
from stages.report.plots import Picture, pictures
from stages.report.sections import Section, likelihood_cells
from stages.report.tables import Row, by_protocol, metric_table, number, protocol_of, spread, tables

DESCRIPTIONS = {  # title of a description -> names of the metrics of class and of color
    "which code": ("bag", "one_hot"),
    "code vectors": ("vectors", "vectors"),
    "continuous features": ("features", "features"),
}
RETRIEVED = {
    "bag": "nearest by codes",
    "bag_map": "mAP by codes",
    "features": "nearest by features",
    "features_map": "mAP by features",
    "colors": "nearest by colors",
    "colors_map": "mAP by colors",
}
ABLATION_PLOTS = {  # group and name of a metric -> title of its plot
    ("features", "quantization_error"): "share of variance lost",
    ("class", "bag"): "class from bag of codes",
    ("lookup", "psnr_db"): "lookup PSNR, dB",
    ("usage", "entropy_nats"): "entropy of codes, nats",
}
ROBUSTNESS = {
    "change": "changed",
    "foreground_change": "changed, foreground",
    "code_cosine": "code cosine",
    "feature_cosine": "feature cosine",
}
RATIOS = ("change", "foreground_change")  # also shown as multiples of the baseline's
PROJECTIONS = {"pca": "PCA", "lda": "LDA", "bayes": "Bayes limit in the plane"}


def code_analysis(reports: Reports) -> Section | None:
    """What the codes of every tokenizer mean: linear probes, lookup, galleries, t-SNE."""
    if not (found := reports.metrics("code_analysis")):
        return None
    rows = [
        Row([name, title], probe_cells(one, *keys), protocol_of(one, "code_analysis"))
        for name, one in found.items()
        for title, keys in DESCRIPTIONS.items()
    ]
    lookups = [Row([name], lookup_cells(one), protocol_of(one, "code_analysis")) for name, one in found.items()]
    ranked = [Row([name], retrieval_cells(one["retrieval"]), protocol_of(one, "code_analysis"))
              for name, one in found.items() if "bag" in one.get("retrieval", {})]  # fmt: skip
    folders = {name: reports.folder("code_analysis", name) for name in found}
    shown = pictures({f"{name}: gallery of codes": folder / "gallery.png" for name, folder in folders.items()})
    planes = {f"{name}: t-SNE of features and code vectors": folder / "tsne.png" for name, folder in folders.items()}
    shown += pictures(planes, plot=True)
    both = [*tables(["tokenizer", "probe of"], rows), *tables(["tokenizer"], lookups), *tables(["tokenizer"], ranked)]
    maps = [("code_map", one) for one in code_maps(reports)]
    return Section("code_analysis", "Code analysis", {"skipped": parts_skipped(found)}, both, shown, parts=maps)


def parts_skipped(found: dict[str, Metrics]) -> list[str]:
    """Which groups of metrics are missing, and why."""
    groups = [(f"{name}, {group}", own) for name, one in found.items() for group, own in one.items()]
    return [f"{where}: {own['skipped']}" for where, own in groups if isinstance(own, dict) and "skipped" in own]


def probe_cells(metrics: Metrics, of_class: str, of_color: str) -> dict[str, str]:
    """Class and color from one description; without classes or colors, a dash."""
    return {"class": spread(metrics["class"], of_class), "color R²": spread(metrics["color"], of_color)}


def retrieval_cells(found: Metrics) -> dict[str, str]:
    """Whether the nearest image has the same class, and mean average precision, beside chance."""
    by = {title: spread(found, key) for key, title in RETRIEVED.items()}
    return {**by, "chance": number(found["chance"]), "chance, mAP": number(found["chance_map"])}


def usage_cells(usage: Metrics) -> dict[str, str]:
    """Usage of codes on val."""
    titles = {"live_codes": "live codes", "entropy_nats": "entropy nats", "perplexity": "perplexity"}
    return {title: number(usage[key]) for key, title in titles.items()}


def lookup_cells(metrics: Metrics) -> dict[str, str]:
    """Usage on val and PSNR of the lookup."""
    cells = usage_cells(metrics["usage"]) | {"lookup PSNR dB": spread(metrics["lookup"], "psnr_db")}
    return cells | {"one patch for all, dB": spread(metrics["lookup"], "one_patch_psnr_db")}


def ablation(reports: Reports) -> Section | None:
    """Codebook size x dimension: a row and a point per cell."""
    if not (named := reports.metrics("ablation")):
        return None
    cells, facts = measured(named)
    found = sorted(cells.values(), key=lambda cell: (cell["dim"], cell["num_codes"]))
    rows = [
        Row([number(one["num_codes"]), number(one["dim"])], ablation_cells(one), protocol_of(one, "ablation"))
        for one in found
    ]
    shown = [Picture(ablation_plot(found), "By codebook size, one line per dimension", plot=True)] if found else []
    return Section("ablation", "Codebook size and dimension", facts, tables(["K", "dim"], rows), shown)


def measured(found: dict[str, Metrics]) -> tuple[dict[str, Metrics], dict[str, list[str]]]:
    """The members of a study that could be measured, and as a fact why the others could not."""
    why = [f"{name}: {one['skipped']}" for name, one in found.items() if "skipped" in one]
    return {name: one for name, one in found.items() if "skipped" not in one}, {"skipped": why}


def ablation_cells(cell: Metrics) -> dict[str, str]:
    """The metrics of one cell."""
    features = cell["features"]
    cells = usage_cells(cell["usage"]) | {"variance lost": spread(features, "quantization_error")}
    cells |= {"left out": spread(features, "projection_error"), "class from bag": spread(cell["class"], "bag")}
    return cells | {"lookup PSNR dB": spread(cell["lookup"], "psnr_db")}


def ablation_plot(cells: list[Metrics]) -> str:
    """A plot per metric that all cells have, a line per dimension; a picture's address."""
    panels = {key: title for key, title in ABLATION_PLOTS.items() if all(key[1] in cell[key[0]] for cell in cells)}
    dims = sorted({cell["dim"] for cell in cells})
    found = {
        title: {f"{dim} dims": ablation_line([cell for cell in cells if cell["dim"] == dim], *key) for dim in dims}
        for key, title in panels.items()
    }
    return plots.bands(found, "K", partial(sizes_as_ticks, sorted({cell["num_codes"] for cell in cells})))


def ablation_line(cells: list[Metrics], group: str, name: str) -> plots.Band:
    """One metric against K, with its deviations."""
    own = [cell[group] for cell in cells]
    return [cell["num_codes"] for cell in cells], [one[name] for one in own], [one.get(f"{name}_std", 0) for one in own]


def sizes_as_ticks(sizes: list[int], axis: Axes) -> None:
    """The codebook sizes on a logarithmic axis."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()


def noise_robustness(reports: Reports, evaluations: dict[str, Evaluation]) -> Section | None:
    """Codes under noise: every metric of all tokenizers, SNR by SNR; tables and plots by protocol."""
    if not (every := reports.metrics("noise_robustness")):
        return None
    found, facts = measured(every)
    baseline, groups = baseline_of(reports, evaluations), by_protocol(found, "noise_robustness")
    kept = {name: evaluation_cells(evaluations, name) for name in found}
    rows = [
        row for one in groups for snr in levels(next(iter(one.values()))) for row in rows_at(snr, one, kept, baseline)
    ]
    shown = [Picture(noise_plot(group), f"{', '.join(group)}: by signal-to-noise ratio", plot=True) for group in groups]
    details = [(f"{name}: noise", metric_table(one, protocol_of(one, "tokenizer"))) for name, one in found.items()]
    shared = tables(["SNR", "tokenizer", "codes"], rows)
    return Section("noise_robustness", "Noise robustness", {**facts, "baseline": baseline}, shared, shown, details)


def baseline_of(reports: Reports, evaluations: dict[str, Evaluation]) -> str:
    """The first tokenizer of kind kmeans on a trained encoder, with which others are compared; empty without one."""
    kinds = {one.tokenizer: one.reconstruction["tokenizer"]["kind"] for one in evaluations.values()}
    untrained = {name for name in kinds if reports.params.get(f"codebook.{name}", {}).get("encoder") == "random"}
    return next((name for name, kind in kinds.items() if kind == "kmeans" and name not in untrained), "")


def levels(metrics: Metrics) -> dict[str, Metrics]:
    """{SNR as the page shows it: metrics}."""
    return {f"{snr:g} dB": metrics[f"snr_{snr:g}_db"] for snr in protocol_of(metrics, "noise_robustness")["snrs_db"]}


def evaluation_cells(evaluations: dict[str, Evaluation], tokenizer: str) -> dict[str, str]:
    """PSNR by each decoder and bits per image by each generator, as evaluated."""
    cells: dict[str, str] = {}
    for one in (one for one in evaluations.values() if one.tokenizer == tokenizer):
        cells[f"{one.decoder} PSNR dB"] = spread(one.reconstruction["reconstruction"], "psnr_db")
        for generator in one.generators:
            cells |= likelihood_cells(one.generation[generator], {"val_bits_per_image": f"{generator} bits"})
    return cells


def rows_at(snr: str, group: dict[str, Metrics], kept: dict[str, dict[str, str]], baseline: str) -> list[Row]:
    """A row per tokenizer of one protocol: metrics at an SNR, changes relative to the baseline's, what codes keep."""
    base = levels(group[baseline])[snr] if baseline in group and len(group) > 1 else {}
    rows = []
    for name, metrics in group.items():
        own = levels(metrics)[snr]
        cells = {title: both_spreads(own, key) for key, title in ROBUSTNESS.items()}
        cells |= {
            f"{ROBUSTNESS[key]} ÷ {baseline}": number(own[key] / base[key])
            for key in RATIOS
            if base.get(key) and key in own
        }
        codes = number(protocol_of(metrics, "tokenizer")["num_codes"])
        rows.append(Row([snr, name, codes], cells | kept[name], protocol_of(metrics, "noise_robustness")))
    return rows


def both_spreads(metrics: Metrics, key: str) -> str:
    """A metric with its deviation between noise seeds and its standard error over images."""
    return spread(metrics, key) + (f", images ± {metrics[f'{key}_image_std']:.2g}" if key in metrics else "")


def noise_plot(group: dict[str, Metrics]) -> str:
    """A plot per metric with a line per tokenizer, as an address."""
    found = {title: {name: noise_band(key, one) for name, one in group.items()} for key, title in ROBUSTNESS.items()}
    return plots.bands(found, "SNR, dB", lambda axis: axis.invert_xaxis())


def noise_band(name: str, metrics: Metrics) -> plots.Band:
    """The SNRs at which a metric is known, its means and its deviations."""
    snrs = protocol_of(metrics, "noise_robustness")["snrs_db"]
    known = [(snr, one) for snr, one in zip(snrs, levels(metrics).values(), strict=True) if name in one]
    return [snr for snr, _ in known], [one[name] for _, one in known], [one[f"{name}_std"] for _, one in known]


def pca_vs_lda(reports: Reports) -> Section | None:
    """Accuracy after PCA and LDA under noise, a table per case."""
    if (metrics := reports.metrics("pca_vs_lda").get("")) is None:
        return None
    rows = [row for case in metrics["protocol"] for row in case_rows(case, metrics[case["of"]])]
    drawn = {"points, directions and accuracy": reports.folder("pca_vs_lda") / "pca_vs_lda.png"}
    shown = pictures(drawn, plot=True)
    return Section("pca_vs_lda", "PCA and LDA under noise", {}, tables(["case", "projection"], rows), shown)


def case_rows(case: Metrics, metrics: Metrics) -> list[Row]:
    """The projections of one case, with a column per deviation of the noise."""
    return [
        Row(
            [case["of"], title],
            {f"σ {sigma:g}": spread(metrics[key], f"sigma_{sigma:g}") for sigma in case["noise_sigmas"]},
            case,
        )
        for key, title in PROJECTIONS.items()
    ]
