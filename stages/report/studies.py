"""The sections of the studies: what noise does to codes, convolutions at larger sizes, the toy of PCA and LDA."""

from __future__ import annotations

from typing import Any

from stages.report import draw, gather
from stages.report.sections import Picture, Section, generators, likelihood, likelihood_cell, pictures
from stages.report.tables import Row, by_protocol, figure_table, number, protocol_of, spread, tables

BASELINE = "kmeans"  # the tokenizer to which others are compared
STABILITY = {
    "change": "changed",
    "foreground_change": "on foreground",
    "code_cosine": "code cosine",
    "row_cosine": "feature cosine",
}
TIMES = {"change": "changed", "foreground_change": "on foreground"}  # told as multiples of the baseline's
PROJECTIONS = {"pca": "PCA", "lda": "LDA", "bayes": "Bayes limit in the plane"}


def stability(reports: gather.Reports) -> Section | None:
    """Codes under noise: every figure of all tokenizers, level by level, tables and plots by protocol."""
    found = reports.named("stability")
    if not found:
        return None
    text = (
        "Gaussian noise on the pixels of val images, signal-to-noise ratio in dB; mean ± standard deviation between "
        "noise seeds, then the standard error over images. Changed: share of codes, also of those alone whose patch "
        f"shows something, and as a multiple of {BASELINE}'s. Cosines: code vectors and features before against after. "
        "Few or coarse codes change less for that reason alone: compare tokenizers of as many codes and of like PSNR "
        "or bits an image (both as evaluated, without noise), and know which encoder saw noise in its training. "
        "Cosines are taken in each tokenizer's own space, so compare levels of one, not tokenizers. Bars in the "
        "plots: between noise seeds."
    )
    groups, kept = by_protocol(found, "stability"), what_codes_keep(reports)
    rows = [row for group in groups for snr in levels(next(iter(group.values()))) for row in rows_at(snr, group, kept)]
    shown = [Picture(plot(group), f"{', '.join(group)}: falling signal-to-noise ratio") for group in groups]
    details = [(f"{name}: noise", figure_table(one, protocol_of(one, "tokenizer"))) for name, one in found.items()]
    return Section("Noise stability", text, tables(["SNR", "tokenizer", "codes"], rows), shown, details)


def levels(metrics: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{level as the page shows it: figures}."""
    return {f"{snr:g} dB": metrics[f"snr_{snr:g}_db"] for snr in protocol_of(metrics, "stability")["snrs_db"]}


def what_codes_keep(reports: gather.Reports) -> dict[str, dict[str, str]]:
    """{tokenizer: PSNR of each decoder, bits an image of each generator}, of those that were evaluated."""
    kept: dict[str, dict[str, str]] = {}
    for name, metrics in reports.named("evaluate").items():
        tokenizer = metrics["tokenizer"]["name"]
        cells = kept.setdefault(tokenizer, {})
        cells[f"{name.removeprefix(f'{tokenizer}-')} PSNR dB"] = spread(metrics["reconstruction"], "psnr_db")
        cells |= {
            f"{generator} bits": likelihood_cell(metrics[generator], "val_bits_per_image")
            for generator in generators(metrics)
            if likelihood(metrics[generator])
        }
    return kept


def rows_at(snr: str, group: dict[str, dict[str, Any]], kept: dict[str, dict[str, str]]) -> list[Row]:
    """One row for each tokenizer of one protocol: figures at a level, changes over the baseline's, what codes keep."""
    base = levels(group[BASELINE])[snr] if BASELINE in group and len(group) > 1 else {}
    rows = []
    for name, metrics in group.items():
        figures = levels(metrics)[snr]
        cells = {title: both_spreads(figures, key) for key, title in STABILITY.items()}
        cells |= {
            f"{title} ÷ {BASELINE}": number(figures[key] / base[key])
            for key, title in TIMES.items()
            if base.get(key) and key in figures
        }
        cells |= kept.get(name, {})
        codes = number(protocol_of(metrics, "tokenizer")["num_codes"])
        rows.append(Row([snr, name, codes], cells, protocol_of(metrics, "stability")))
    return rows


def both_spreads(figures: dict[str, float], key: str) -> str:
    """A figure with its deviation between noise seeds and its standard error over images."""
    return spread(figures, key) + (f", images ± {figures[f'{key}_image_std']:.2g}" if key in figures else "")


def plot(group: dict[str, dict[str, Any]]) -> str:
    """One plot a figure with a line for each tokenizer, as an address."""
    found = {title: {name: band(key, one) for name, one in group.items()} for key, title in STABILITY.items()}
    return draw.bands(found, "SNR, dB", lambda axis: axis.invert_xaxis())


def band(figure: str, metrics: dict[str, Any]) -> draw.Band:
    """The levels at which the figure is known, its means and its deviations."""
    snrs = protocol_of(metrics, "stability")["snrs_db"]
    known = [(snr, one) for snr, one in zip(snrs, levels(metrics).values(), strict=True) if figure in one]
    return [snr for snr, _ in known], [one[figure] for _, one in known], [one[f"{figure}_std"] for _, one in known]


def resolution(reports: gather.Reports) -> Section | None:
    """Convolutions at larger sizes than those of their training."""
    found = reports.named("resolution")
    measured = {name: metrics for name, metrics in found.items() if "skipped" not in metrics}
    left_out = "; ".join(metrics["skipped"] for metrics in found.values() if "skipped" in metrics)
    if not measured:
        return Section("Larger images", f"Nothing to measure: {left_out}.") if left_out else None
    text = (
        "Convolutional tokenizers and decoders at multiples of the size that they were trained at; joint is a "
        "tokenizer's own decoder, trained with it. Scenes are rendered again at the larger size, with real detail; "
        "other images are enlarged and have none. ± by bootstrap over images."
    ) + (f" Left out: {left_out}." if left_out else "")
    rows: dict[tuple[str, str], Row] = {}
    for metrics in measured.values():
        for key, name in (("decoder", metrics["name"]), ("joint", "joint")):
            label = (metrics["tokenizer"], name)
            rows.setdefault(label, Row([*label], scale_cells(metrics[key]), protocol_of(metrics, "resolution")))
    paths = {name: reports / "resolution" / name / "pictures" / "scales.png" for name in measured}
    shown = pictures({f"{name}: at each scale the original, its own image, that of the joint decoder": path
                      for name, path in paths.items()})  # fmt: skip
    return Section("Larger images", text, tables(["tokenizer", "decoder"], [*rows.values()]), shown)


def scale_cells(scales: dict[str, dict[str, Any]]) -> dict[str, str]:
    """PSNR and SSIM, scale by scale."""
    return {
        f"{scale.removeprefix('scale_')}x {title}": spread(figures, key)
        for key, title in (("psnr_db", "PSNR dB"), ("ssim", "SSIM"))
        for scale, figures in scales.items()
    }


def projection(reports: gather.Reports) -> Section | None:
    """Accuracy after PCA and LDA under noise, a table for each case."""
    metrics = gather.read_metrics(reports / "projection")
    if metrics is None:
        return None
    text = (
        "A toy: two Gaussian classes in a plane, projected to one dimension by PCA or LDA, fitted on clean points; "
        "accuracy on test points with noise of deviation σ, mean ± standard deviation between seeds. Where the classes "
        "differ at a right angle to where they vary most, PCA sees nothing and LDA is as good as can be. Where they do "
        "not, the direction that is best for clean points is not the best for noisy ones, and PCA can come out ahead."
    )
    rows = [row for case in metrics["protocol"] for row in case_rows(case, metrics[case["of"]])]
    shown = pictures({"points, directions and accuracy": reports / "projection" / "projection.png"})
    return Section("PCA and LDA under noise", text, tables(["case", "projection"], rows), shown)


def case_rows(case: dict[str, Any], figures: dict[str, dict[str, float]]) -> list[Row]:
    """The projections of one case, level by level."""
    return [
        Row(
            [case["of"], title],
            {f"σ {sigma:g}": spread(figures[key], f"sigma_{sigma:g}") for sigma in case["noise_sigmas"]},
            case,
        )
        for key, title in PROJECTIONS.items()
    ]
