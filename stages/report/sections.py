"""The main sections of the page as plain data: tables and pictures. Their prose is in prose.html, by their key."""

from dataclasses import dataclass, field
from typing import Any

from stages.core.metrics import few_live
from stages.report import galleries, plots
from stages.report.gather import Evaluation, Metrics, Reports, read_runs
from stages.report.plots import Picture, pictures
from stages.report.rules_on_tokens import ROBUSTNESS
from stages.report.tables import Row, Table, comparable, metric_table, number, protocol_of, shared, spread, tables

Evaluations = dict[str, Evaluation]
NOISE_DB = "20"  # SNR at which the table of tokenizers compares noise robustness
DISTANCES = ("gfid[", "gfid_infinity[", "gkid[", "is[", "precision[", "recall[", "density[", "coverage[")


@dataclass(frozen=True)
class Section:
    """A heading, tables, pictures, and tables folded away (`details`); `key` names its prose, which shows `facts`.

    `notes` are always in sight. `parts` are macros of parts.html with what they draw.
    """

    key: str
    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[tuple[str, Table]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but prose."""
        return not (self.tables or self.pictures or self.details or self.parts)


def tokenizers(reports: Reports, evaluations: Evaluations) -> Section:
    """A row per tokenizer and decoder."""
    noise = {name: noise_robustness(reports, one.tokenizer) for name, one in evaluations.items()}
    first = next((shared(one["protocol"]) for one in noise.values() if one["protocol"]), "")
    rows = [
        tokenizer_row(name, one, noise[name] if shared(noise[name]["protocol"]) == first else {})
        for name, one in evaluations.items()
    ]
    facts = {"noise_db": NOISE_DB, "data": reports.params.get("data", {})}
    notes = [f"Codebook usage of {name}: {few} occur in the train images." for name, few in few_live_codes(reports)]
    return Section("tokenizers", "Tokenizers", facts, tables(["tokenizer-decoder"], rows), notes=notes)


def few_live_codes(reports: Reports) -> list[tuple[str, str]]:
    """Tokenizers of whose codes few occur in the train images, and how many do."""
    counts = {
        name: (metrics["train"]["live_codes"], metrics["num_codes"])
        for name, metrics in reports.metrics("codebook").items()
        if "num_codes" in metrics
    }
    return [(name, few) for name, count in counts.items() if (few := few_live(*count))]


def noise_robustness(reports: Reports, tokenizer: str) -> Metrics:
    """{change, change_std, …} of a tokenizer at NOISE_DB, and the protocol; empty where it was not measured.

    _std is the root of the summed squares of the deviation between noise seeds and the standard error over val images.
    """
    found = reports.metrics("noise_robustness").get(tokenizer, {})
    metrics = found.get(f"snr_{NOISE_DB}_db", {})
    stds = {
        f"{name}_std": (metrics[f"{name}_std"] ** 2 + metrics[f"{name}_image_std"] ** 2) ** 0.5
        for name in ROBUSTNESS
        if name in metrics
    }
    return {**metrics, **stds, "protocol": protocol_of(found, "noise_robustness")}


def tokenizer_row(name: str, evaluation: Evaluation, noise: Metrics) -> Row:
    """One tokenizer's metrics; its protocol is that of its reconstructions and of every generator's samples."""
    made, facts = evaluation.reconstruction["reconstruction"], evaluation.reconstruction["tokenizer"]
    usage = made.get("code_usage", {})
    cells = {"K": number(facts["num_codes"]), "dim": number(facts["dim"])}
    cells |= {"live": spread(usage, "live_codes"), "entropy nats": spread(usage, "entropy_nats")}
    space = "classifier" if "rfid[classifier]" in made else "embedded"  # no classifier without classes
    cells |= {f"rfid[{space}]": spread(made, f"rfid[{space}]"), "PSNR dB": spread(made, "psnr_db")}
    cells |= {"class accuracy": spread(made, "class_accuracy"), "changed": spread(noise, "change")}
    cells |= {"changed, foreground": spread(noise, "foreground_change")}
    protocol: Metrics = {"reconstruction": comparable(protocol_of(evaluation.reconstruction, "reconstruction"))}
    for generator in evaluation.generators:
        cells |= generator_summary(generator, evaluation.generation[generator], space)
        protocol[generator] = comparable(protocol_of(evaluation.generation, generator))
    return Row([name], cells, protocol)


def generator_summary(generator: str, metrics: Metrics, space: str) -> dict[str, str]:
    """Perplexity, bits, FID, Inception score and class accuracy of one generator."""
    titles = {"val_perplexity": "ppl", "val_bits_per_image": "bits"}
    cells = {f"{generator} {title}": cell for title, cell in likelihood_cells(metrics, titles).items()}
    for title, metric in ((f"gfid[{space}]",) * 2, ("is[classifier]",) * 2, ("class accuracy", "class_accuracy")):
        cells[f"{generator} {title}"] = spread(metrics, metric)
    return cells


def likelihood_cells(metrics: Metrics, titles: dict[str, str]) -> dict[str, str]:
    """{title: metric of a generator on val codes}, ≤ before an upper bound; without those that were not measured."""
    found = metrics.get("likelihood", {})
    bounded = {key: "≤ " for key in titles if found.get("bound") == "upper" and key != "unigram_perplexity"}
    return {title: bounded.get(key, "") + spread(found, key) for key, title in titles.items() if key in found}


def generated_images(evaluations: Evaluations) -> Section | None:
    """A row per tokenizer, decoder and generator."""
    rows = [
        Row([name, generator], sample_cells(one.generation[generator]), protocol_of(one.generation, generator))
        for name, one in evaluations.items()
        for generator in one.generators
    ]
    shown = tables(["tokenizer-decoder", "generator"], rows + real_rows(evaluations))
    facts = {"skipped": reasons(evaluations)}
    return Section("generated_images", "Generated images", facts, shown) if rows else None


def reasons(evaluations: Evaluations) -> list[str]:
    """Why metrics of samples and of real val images are missing, each reason once with the rows that it holds for."""
    found: dict[str, list[str]] = {}
    for name, one in evaluations.items():
        for group in [*(["val"] if "val" in one.generation else []), *one.generators]:
            for key, why in one.generation[group].items():
                if key.endswith("skipped"):
                    metric = key.removesuffix("skipped").strip("_").replace("_", " ") or "all"
                    found.setdefault(f"{metric} ({why})", []).append(f"{name} {group}")
    return [f"{why}: {', '.join(of)}" for why, of in found.items()]


def real_rows(evaluations: Evaluations) -> list[Row]:
    """Real val images scored like samples, once per protocol."""
    found: dict[str, Row] = {}
    for one in evaluations.values():
        real, protocol = one.generation.get("val", {}), protocol_of(one.generation, "val")
        if "images" in real:
            row = Row(["–", f"{real['images']} real val images"], sample_cells(real), protocol)
            found.setdefault(shared(protocol), row)
    return list(found.values())


def sample_cells(metrics: Metrics) -> dict[str, str]:
    """The main metrics of a generator."""
    names = [name for name in metrics if name.startswith(DISTANCES) and not name.endswith("_std")]
    cells = {"class accuracy": spread(metrics, "class_accuracy")} | {name: spread(metrics, name) for name in names}
    titles = {"val_perplexity": "val perplexity", "unigram_perplexity": "unigram perplexity"}
    cells |= likelihood_cells(metrics, {**titles, "val_bits_per_image": "bits per image"})
    return cells | {"near copies": spread(metrics, "near_copies[pixel]")}


def reconstructions(reports: Reports, evaluations: Evaluations) -> Section:
    """Val images through tokenizer and decoder."""
    rows = [
        Row([name], reconstruction_cells(one.reconstruction), protocol_of(one.reconstruction, "reconstruction"))
        for name, one in evaluations.items()
    ]
    parts = [("slider", one) for one in galleries.sliders(reports, evaluations)]
    return Section("reconstructions", "Reconstructions", {}, tables(["tokenizer-decoder"], rows), parts=parts)


def reconstruction_cells(metrics: Metrics) -> dict[str, str]:
    """The main metrics of reconstructions, with class accuracy on the real images beside theirs."""
    made = metrics["reconstruction"]
    cells = {"PSNR dB": spread(made, "psnr_db"), "SSIM": spread(made, "ssim")}
    names = [name for name in made if name.startswith("rfid[") and not name.endswith("_std")]
    cells |= {name: spread(made, name) for name in names}
    cells |= {"class accuracy": spread(made, "class_accuracy")}
    cells |= {"class accuracy of real val": spread(metrics["val"], "class_accuracy")}
    return cells | {"live codes": spread(made.get("code_usage", {}), "live_codes")}


def samples(reports: Reports, evaluations: Evaluations) -> Section | None:
    """Samples of all generators by class and by caption, their nearest training images, and distances to train."""
    shown = galleries.samples(reports, evaluations)
    details = [
        (f"{name}, {generator}: distances to the nearest training image", neighbor_table(one, generator))
        for name, one in evaluations.items()
        for generator in one.generators
    ]
    parts = [("gallery", one) for one in shown]
    return Section("samples", "Samples", details=details, parts=parts) if details else None


def neighbor_table(evaluation: Evaluation, generator: str) -> Table:
    """Distances to train of samples, real val images and reconstructions, all against one reference."""
    made = evaluation.reconstruction
    sets = {"samples": evaluation.generation[generator], "real val images": made["val"]}
    rows = [
        [title, space, *(number(distances[key]) for key in ("median", "p01", "p99", "near_copies"))]
        for title, metrics in {**sets, "reconstructions": made["reconstruction"]}.items()
        for space, distances in metrics.get("neighbors", {}).items()
    ]
    whole = protocol_of(evaluation.generation, generator)
    protocol = {key: value for key, value in whole.items() if key.startswith(("reference", "pixel_px"))}
    return Table(["images", "space", "median", "1 %", "99 %", "near copies"], rows, protocol)


def codebooks(reports: Reports) -> Section | None:
    """Usage of every tokenizer's codes."""
    details = [(f"Codebook {name}", metric_table(one, {})) for name, one in reports.metrics("codebook").items()]
    return Section("codebooks", "Codebooks", details=details) if details else None


def training(reports: Reports) -> Section | None:
    """Curves of every training, train and val in one plot where both were logged."""
    shown = []
    for run in read_runs(reports):
        of = f", images {run.images}…" if run.images not in ("", reports.images) else ""
        shown.append(Picture(plots.curves(run.curves), f"{run.name}: by step{of}", plot=True))
        shown += pictures({f"{run.name}: {run.picture.stem}": run.picture} if run.picture else {})
    return Section("training", "Training curves", {}, [], shown) if shown else None


def all_metrics(evaluations: Evaluations) -> Section:
    """All metrics of every evaluation, each group with its protocol."""
    details = [
        (f"{name}, {stage}: {key}", metric_table(metrics[key], protocol_of(metrics, key)))
        for name, one in evaluations.items()
        for stage, metrics, groups in (
            ("reconstruction", one.reconstruction, ["tokenizer", "val", "reconstruction"]),
            ("generation", one.generation, [*(["val"] if one.generation else []), *one.generators]),
        )
        for key in groups
    ]
    return Section("all_metrics", "All metrics", details=details)
