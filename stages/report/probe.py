"""The section on linear probes of the encoder, and the warning where it is no better than its random twin."""

from stages.report.gather import Reports
from stages.report.plots import pictures
from stages.report.sections import Section
from stages.report.tables import Row, number, protocol_of, spread, tables

PROBES = {"raw": "raw pixels", "random_twin": "the same network untrained", "encoder": "the encoder"}
PROBED = {"clean": "clean", "augmented": "augmented", "few_clean": "few, clean", "few_augmented": "few, augmented"}


def probe(reports: Reports) -> Section | None:
    """Linear probes of the encoder."""
    if (metrics := reports.metrics("probe").get("")) is None:
        return None
    shown = pictures({"val images above their augmented versions": reports.folder("probe") / "augmented.png"})
    facts = {"skipped": metrics.get("skipped", "")}
    rows = [
        Row(
            [title],
            {column: spread(metrics[key], name) for name, column in PROBED.items()},
            protocol_of(metrics, "probe"),
        )
        for key, title in PROBES.items()
        if key in metrics
    ]
    return Section("probe", "Encoder probe", facts, tables(["features"], rows), shown, notes=weak_encoder(reports))


def weak_encoder(reports: Reports) -> list[str]:
    """A warning where a linear probe reads the class from the encoder no better than from its random twin."""
    metrics = reports.metrics("probe").get("", {})
    encoder, twin = metrics.get("encoder", {}), metrics.get("random_twin", {})
    told = [
        f"{title} {number(encoder[key])} and {number(twin[key])}"
        for key, title in PROBED.items()
        if key in encoder and key in twin and encoder[key] <= twin[key]
    ]
    said = "The encoder is not above the same network untrained by the accuracy of linear probes"
    return [f"{said}: {'; '.join(told)}. Its features may say nothing of these images."] if told else []
