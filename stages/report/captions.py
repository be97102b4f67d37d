"""The section on caption accuracy: what generated images show of their captions, beside chance and real images."""

from typing import Any

from stages.report.gather import Reports
from stages.report.sections import Section
from stages.report.tables import Row, protocol_of, spread, tables

GROUPS = ("images", "skipped", "protocol")  # of metrics.json, no generators
VAL = {"val": "real val images"}


def captions(reports: Reports) -> list[Section]:
    """A table with a row per tokenizer, decoder and generator; no section without captions."""
    rows = [
        Row(
            [name, "real val images" if generator == "val" else generator],
            cells(metrics),
            protocol_of(found, generator),
        )
        for name, found in reports.metrics("caption_accuracy").items()
        for generator, metrics in found.items()
        if generator not in GROUPS
    ]
    return (
        [Section("captions", "Captions", {}, tables(["tokenizer-decoder-checker", "generator"], rows))] if rows else []
    )


def cells(metrics: dict[str, Any]) -> dict[str, str]:
    """Accuracy of each attribute with its chance beside it."""
    found = {}
    for key in (key for key in metrics if key.startswith("caption_accuracy[") and not key.endswith("_std")):
        name = key.removeprefix("caption_accuracy[").removesuffix("]")
        found[name] = spread(metrics, key)
        if f"chance[{name}]" in metrics:
            found[f"{name}, chance"] = spread(metrics, f"chance[{name}]")
    return found
