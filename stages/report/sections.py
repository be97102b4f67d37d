"""The sections of the page as plain data: tables and pictures with their captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.report import draw, gather
from stages.report.tables import Row, Table, figure_table, number, protocol_of, shared, spread, tables

GROUPS = ("tokenizer", "val", "reconstruction")  # of an evaluation's metrics; the others are generators
PROBES = {"raw": "raw pixels", "random_twin": "its random twin", "encoder": "the encoder"}


@dataclass(frozen=True)
class Picture:
    """A picture as a data: address, with what it shows."""

    source: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, what to read before the figures, tables, pictures; `details` are folded away."""

    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[tuple[str, Table]] = field(default_factory=list)


def generators(metrics: dict[str, Any]) -> list[str]:
    """The generators an evaluation scored."""
    return [group for group in metrics if group not in (*GROUPS, "protocol")]


def headline(evaluations: dict[str, dict[str, Any]]) -> Section:
    """One row for each tokenizer, decoder and generator."""
    rows = [
        Row([name, generator], generator_cells(metrics[generator]), protocol_of(metrics, generator))
        for name, metrics in evaluations.items()
        for generator in generators(metrics)
    ]
    rows += real_rows(evaluations)
    text = (
        "Mean over sampling seeds ± standard deviation between them; of perplexity and bits, the standard error of "
        "the mean over val images. Agreement: an independent classifier sees the class that was asked for. gfid, "
        "gkid: distance to real training images; precision and recall: share of samples among real ones, and the "
        "reverse. Real val images tell what perfect samples would have; fewer images have a larger gfid, and another "
        "is and recall. In [judge], a space made to part classes, precision was seen to rise as pictures became "
        "emptier: read it in [embedded]. Perplexity compares generators of one tokenizer; ≤ marks an upper bound, "
        "unigram what the codes' frequencies alone give. Near copies: share of samples nearer to a training image, by "
        "their pixels, than 99 % of real val images are; 0.01 is what fresh real images have (with fewer than 99 val "
        "images, one in their number + 1). Smooth pictures are near to others without being copies: compare with the "
        "reconstructions of images never trained on, below."
    )
    return Section("Generated images", text, tables(["tokenizer-decoder", "generator"], rows))


def real_rows(evaluations: dict[str, dict[str, Any]]) -> list[Row]:
    """Real val images scored as if they were samples, once for each protocol."""
    found: dict[str, Row] = {}
    for metrics in evaluations.values():
        real, protocol = metrics["val"].get("as_samples"), protocol_of(metrics, "as_samples")
        if real:
            label = ["–", f"{real['images']} real val images"]
            found.setdefault(shared(protocol), Row(label, generator_cells(real), protocol))
    return list(found.values())


def generator_cells(figures: dict[str, Any]) -> dict[str, str]:
    """The headline figures of a generator."""
    names = [name for name in figures if name.startswith(("gfid[", "gkid[", "is[", "precision[", "recall["))]
    cells = {name: spread(figures, name) for name in ["agreement", *names] if not name.endswith("_std")}
    titles = {
        "val_perplexity": "val perplexity",
        "unigram_perplexity": "unigram",
        "val_bits_per_image": "bits an image",
    }
    cells |= {title: likelihood_cell(figures, key) for key, title in titles.items() if key in likelihood(figures)}
    return cells | {"near copies": spread(figures, "near_copies[pixel]")}


def likelihood(figures: dict[str, Any]) -> dict[str, Any]:
    """What a generator makes of val codes; empty where that was not measured."""
    return figures.get("likelihood", {})


def likelihood_cell(figures: dict[str, Any], key: str) -> str:
    """One of these figures; ≤ before what the generator bounds."""
    bounded = likelihood(figures).get("bound") == "upper" and key != "unigram_perplexity"
    return ("≤ " if bounded else "") + spread(likelihood(figures), key)


def reconstructions(reports: gather.Reports, evaluations: dict[str, dict[str, Any]]) -> Section:
    """Val images through tokenizer and decoder."""
    rows = [
        Row([name], reconstruction_cells(metrics), protocol_of(metrics, "reconstruction"))
        for name, metrics in evaluations.items()
    ]
    text = (
        "Val images through the tokenizer and back. rfid: distance to the same images before it. ± is the standard "
        "error by bootstrap over images."
    )
    folders = {name: reports / "evaluate" / name / "pictures" / "reconstructions.png" for name in evaluations}
    shown = pictures(
        {f"{name}: rows of originals, each above its reconstructions": path for name, path in folders.items()}
    )
    return Section("Reconstructions", text, tables(["tokenizer-decoder"], rows), shown)


def reconstruction_cells(metrics: dict[str, Any]) -> dict[str, str]:
    """The headline figures of reconstructions, with the judge's accuracy on the real images beside the agreement."""
    figures = metrics["reconstruction"]
    cells = {"psnr dB": spread(figures, "psnr_db"), "ssim": spread(figures, "ssim")}
    names = [name for name in figures if name.startswith("rfid[") and not name.endswith("_std")]
    cells |= {name: spread(figures, name) for name in names}
    cells |= {"agreement": spread(figures, "agreement"), "judge on real val": spread(metrics["val"], "agreement")}
    return cells | {"live codes": spread(figures.get("code_usage", {}), "live_codes")}


def samples(reports: gather.Reports, evaluations: dict[str, dict[str, Any]]) -> Iterator[Section]:
    """Pictures of every generator, and what its nearest training images say."""
    for name, metrics in evaluations.items():
        for generator in generators(metrics):
            folder, what = reports / "evaluate" / name / "pictures", f"{name}, {generator}"
            shown = pictures({
                f"{what}: one row a class, first seed, not selected": folder / f"samples-{generator}.png",
                f"{what}: samples; below each the nearest training image in pixels, then in encoder features":
                    folder / f"neighbours-{generator}.png",
            })  # fmt: skip
            text = (
                "Distances to the nearest training image, beside those of real val images and of their "
                "reconstructions. Samples are those of the first seed. Pixel distances are root mean square "
                "differences of thumbnails, from 0 to 1."
            )
            yield Section(f"Samples: {what}", text, [neighbour_table(metrics, generator)], shown)


def neighbour_table(metrics: dict[str, Any], generator: str) -> Table:
    """Distances to train of samples, real val images and reconstructions; all against one reference."""
    sets = {"samples": generator, "real val images": "val", "reconstructions": "reconstruction"}
    rows = [
        [title, space, *(number(figures[key]) for key in ("median", "p01", "p99", "near_copies"))]
        for title, group in sets.items()
        for space, figures in metrics[group].get("neighbours", {}).items()
    ]
    whole = protocol_of(metrics, generator)
    protocol = {key: value for key, value in whole.items() if key.startswith(("reference", "pixel_px"))}
    return Table(["images", "space", "median", "1 %", "99 %", "near copies"], rows, protocol)


def probe(reports: gather.Reports) -> Section | None:
    """The linear probe."""
    metrics = gather.read_metrics(reports / "probe")
    if metrics is None:
        return None
    text = (
        "Accuracy of linear classifiers on val. Moved: trained on clean images, tested under a random affine map each. "
        "Few: trained on few labels a class, mean ± standard deviation over draws."
    )
    shown = pictures({"val images above their moved versions": reports / "probe" / "moved.png"})
    if "skipped" in metrics:
        return Section("Encoder probe", f"Skipped: {metrics['skipped']}.", [], shown)
    titles = {"clean": "clean", "moved": "moved", "few_clean": "few, clean", "few_moved": "few, moved"}
    rows = [
        Row(
            [title],
            {column: spread(metrics[key], figure) for figure, column in titles.items()},
            protocol_of(metrics, "probe"),
        )
        for key, title in PROBES.items()
    ]
    return Section("Encoder probe", text, tables(["features"], rows), shown)


def codebooks(reports: gather.Reports) -> Section | None:
    """Usage of every tokenizer's codes."""
    found = reports.named("codebook")
    if not found:
        return None
    details = [(f"Codebook {name}", figure_table(metrics, {})) for name, metrics in found.items()]
    text = "Usage: live codes occur at all; perplexity is the number of codes if all were used alike."
    return Section("Codebook", text, details=details)


def training(reports: gather.Reports) -> Section | None:
    """Curves of every training, train and val in one plot where both were logged."""
    runs = gather.read_runs(reports)
    if not runs:
        return None
    shown = []
    for run in runs:
        shown.append(Picture(draw.curves(run.curves), f"{run.name}: by step"))
        shown += pictures({f"{run.name}: {run.picture.stem}": run.picture} if run.picture else {})
    return Section(
        "Training", "Curves by optimizer step; train and val share a plot where both were logged.", [], shown
    )


def everything(evaluations: dict[str, dict[str, Any]]) -> Section:
    """All figures of every evaluation, each group with its protocol."""
    details = [
        (f"{name}: {group}", figure_table(figures, protocol_of(metrics, group)))
        for name, metrics in evaluations.items()
        for group, figures in metrics.items()
        if group != "protocol"
    ]
    return Section("All figures", "Every figure with the protocol it was made with.", details=details)


def pictures(found: dict[str, Path]) -> list[Picture]:
    """Pictures that are there, by caption."""
    return [Picture(draw.data_address(path.read_bytes()), caption) for caption, path in found.items() if path.is_file()]
