"""Sections of the layer probe and of codes with noise (pFID)."""

from matplotlib.axes import Axes

from stages.report import plots
from stages.report.gather import Metrics, Reports
from stages.report.plots import Picture
from stages.report.sections import Section
from stages.report.studies import measured
from stages.report.tables import Row, by_protocol, number, protocol_of, spread, tables

NETWORKS = {"trained": "trained", "untrained": "untrained twin"}
POINTS = {"best": "best layer", "middle": "middle layer", "last": "last layer"}
DIRECT = {"bag": "bag of codes", "vectors": "code vectors", "accuracy": "raw pixels"}  # without a network


def layer_probe(reports: Reports) -> Section | None:
    """Linear probes of every layer of every generator and of the encoder: a table, and a plot by layer."""
    named = reports.metrics("layer_probe") | reports.metrics("alternating_layer_probe")
    if not named:
        return None
    found, facts = measured(named)
    rows = [row for name, one in found.items() for row in (*network_rows(name, one), *direct_rows(name, one))]
    shown = [
        Picture(layer_plot(group), f"{', '.join(group)}: accuracy by layer; 0: embeddings", plot=True)
        for group in by_protocol(found, "layer_probe")
    ]
    shown += encoder_plot(reports)
    heads = ["network", "weights"]
    return Section("layer_probe", "Probe by layer", facts, tables(heads, rows), shown)


def network_rows(name: str, metrics: Metrics) -> list[Row]:
    """A row for the network, and one for its untrained twin."""
    return [
        Row([name, title], layer_cells(metrics[key]), protocol_of(metrics, "layer_probe"))
        for key, title in NETWORKS.items()
        if key in metrics
    ]


def layer_cells(metrics: Metrics) -> dict[str, str]:
    """Accuracy in the best, the middle and the last layer, and which is the best."""
    found = {title: both_spreads(metrics, key) for key, title in POINTS.items()}
    return found | {"best is layer": number(metrics["best_layer"]), "middle is layer": number(metrics["middle_layer"])}


def direct_rows(name: str, metrics: Metrics) -> list[Row]:
    """What codes or pixels reach without any network."""
    group = metrics.get("codes", metrics.get("raw", {}))
    return [
        Row([name, title], {"best layer": both_spreads(group, key)}, protocol_of(metrics, "layer_probe"))
        for key, title in DIRECT.items()
        if key in group
    ]


def both_spreads(metrics: Metrics, key: str) -> str:
    """An accuracy with its deviation between draws, and its standard error over images."""
    image_std = metrics.get(f"{key}_image_std")
    return spread(metrics, key) + (f", images ± {image_std:.2g}" if image_std is not None else "")


def layer_plot(group: dict[str, Metrics]) -> str:
    """Accuracy against layers, a line for each network and each untrained twin."""
    lines = {
        f"{name}{'' if key == 'trained' else ', untrained'}": layer_band(one["layers"][key])
        for name, one in group.items()
        for key in NETWORKS
        if key in one.get("layers", {})
    }
    return plots.bands({"class accuracy of a linear probe": lines}, "layer", whole_ticks)


def encoder_plot(reports: Reports) -> list[Picture]:
    """The frozen encoder and its untrained twin by layer, where the probe measured them."""
    layers = reports.metrics("probe").get("", {}).get("layers", {})
    lines = {name.replace("_", " "): layer_band(points) for name, points in layers.items()}
    if not lines:
        return []
    shown = plots.bands({"class accuracy of a linear probe": lines}, "layer", whole_ticks)
    return [Picture(shown, "The frozen encoder: accuracy by layer", plot=True)]


def whole_ticks(axis: Axes) -> None:
    """Layers are whole numbers."""
    axis.locator_params("x", integer=True)


def layer_band(points: list[Metrics]) -> plots.Band:
    """Layers, accuracies and deviations."""
    return (
        [one["layer"] for one in points],
        [one["accuracy"] for one in points],
        [one.get("accuracy_std", one.get("accuracy_image_std", 0)) for one in points],
    )


def code_noise(reports: Reports) -> Section | None:
    """pFID: the distance of reconstructions from codes of which some were replaced by neighbors."""
    if not (named := reports.metrics("code_noise_fid")):
        return None
    found, facts = measured(named)
    rows = [Row([name], noise_cells(one), protocol_of(one, "pfid")) for name, one in found.items()]
    details = [
        (f"{name}: every share and number of neighbors", table)
        for name, one in found.items()
        for table in tables(["share of codes", "among the nearest"], point_rows(one))
    ]
    shown = [
        Picture(noise_plot(one), f"{name}: by share of codes, a line per number of neighbors", plot=True)
        for name, one in found.items()
    ]
    shared = tables(["tokenizer-decoder"], rows)
    return Section("code_noise_fid", "Noise on codes (pFID)", facts, shared, shown, details)


def noise_cells(metrics: Metrics) -> dict[str, str]:
    """rFID, and the mean of pFID over the grid."""
    return {key: spread(metrics[group], key) for group in ("rfid", "pfid") for key in extractors(metrics[group])}


def extractors(metrics: Metrics) -> list[str]:
    """The names of metrics without those of their deviations."""
    return [key for key in metrics if "[" in key and not key.endswith("_std")]


def point_rows(metrics: Metrics) -> list[Row]:
    """A row per point of the grid."""
    return [
        Row(
            [number(one["alpha"]), number(one["delta"])],
            {"changed": number(one["changed"])} | {key: spread(one, key) for key in extractors(one)},
            protocol_of(metrics, "pfid"),
        )
        for one in metrics["points"]
    ]


def noise_plot(metrics: Metrics) -> str:
    """A plot per feature extractor."""
    points = metrics["points"]
    deltas = sorted({one["delta"] for one in points})
    found = {
        key: {f"{delta} nearest": noise_band(key, [one for one in points if one["delta"] == delta]) for delta in deltas}
        for key in extractors(metrics["pfid"])
    }
    return plots.bands(found, "share of codes replaced", lambda axis: None)


def noise_band(key: str, points: list[Metrics]) -> plots.Band:
    """One metric against the share of codes."""
    points = sorted(points, key=lambda one: one["alpha"])
    return [one["alpha"] for one in points], [one[key] for one in points], [one.get(f"{key}_std", 0) for one in points]
