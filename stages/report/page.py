"""The page: a first screen, then all sections in groups, rendered with template.html (layout) and prose.html (text).

Metrics of the stage `reconstruction` are required; the page lists other parts that are missing. Metrics of different
protocols never share a table, those of other images than the evaluations' are left out and named.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from ruamel.yaml import YAML

from stages.core.artifact import write_atomically
from stages.core.code import track
from stages.report import decoders, generators, graph, layers, sections, studies
from stages.report.captions import captions
from stages.report.claims import Claim, verdicts
from stages.report.claims_table import by_verdict, claims_section
from stages.report.columns import describe
from stages.report.gather import Reports, read_evaluations
from stages.report.origin import Origin, origin
from stages.report.probe import probe, weak_encoder
from stages.report.recognition import recognition
from stages.report.sample_counts import by_count
from stages.report.sections import Evaluations, Section
from stages.report.summary import summary
from stages.report.tables import Table, protocol_lines

TEMPLATES = ("template.html", "head.html", "first.html", "parts.html", "prose.html", "page.css", "page.js")
Parts = dict[str, Callable[[], list[Section | None]]]


@dataclass(frozen=True)
class Group:
    """Sections below one heading; `key` is its anchor."""

    title: str
    sections: list[Section]

    @property
    def key(self) -> str:
        """The title as an anchor."""
        return self.title.lower().replace(" ", "-")


def write_page(reports: Reports, out: Path) -> None:
    """Write the page `out`, and print its size and what is missing."""
    evaluations = read_evaluations(reports)
    claims = verdicts(reports)
    made = origin(reports)
    groups, missing = collect(reports, evaluations, claims, made)
    missing += [] if reports.params else ["params (no dvc.lock)"]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render(groups, missing, reports, evaluations, claims, made).encode())
    notes = {"missing": missing, "stale": list(reports.stale())}
    said = "".join(f"; {note}: {', '.join(names)}" for note, names in notes.items() if names)
    print(f"report: {out}, {out.stat().st_size / 1e6:.1f} MB{said}")


def parts_of(reports: Reports, evaluations: Evaluations, claims: list[Claim], made: Origin) -> dict[str, Parts]:
    """{group: {part, as the page names it where it is missing: its sections}}, in the order of the page."""
    return {
        "Generation": {
            "generated images": lambda: [sections.generated_images(evaluations), by_count(evaluations)],
            "samples": lambda: [sections.samples(reports, evaluations), *captions(reports)],
            "sampling settings": lambda: [generators.sampling(reports), generators.editing(reports)],
        },
        "Reconstruction": {
            "reconstructions": lambda: [sections.reconstructions(reports, evaluations)],
            "decoding steps": lambda: [*decoders.study(reports)],
            "resolution transfer": lambda: [decoders.resolution_transfer(reports)],
        },
        "Codes": {
            "tokenizers": lambda: [sections.tokenizers(reports, evaluations)],
            "code analysis": lambda: [studies.code_analysis(reports)],
            "codebooks": lambda: [sections.codebooks(reports)],
            "codebook ablation": lambda: [studies.ablation(reports)],
            "noise robustness": lambda: [studies.noise_robustness(reports, evaluations), layers.code_noise(reports)],
        },
        "Recognition": {
            "encoder probe": lambda: [probe(reports), layers.layer_probe(reports), *recognition(reports)],
        },
        "Claims": {"claims": lambda: [claims_section(claims)]},
        "Training": {
            "training curves": lambda: [sections.training(reports)],
            "PCA and LDA": lambda: [studies.pca_vs_lda(reports)],
        },
        "Pipeline": {
            "stages": lambda: [stages_of(reports, made)],
            "all metrics": lambda: [sections.all_metrics(evaluations)],
        },
    }  # fmt: skip


def collect(
    reports: Reports, evaluations: Evaluations, claims: list[Claim], made: Origin
) -> tuple[list[Group], list[str]]:
    """The groups of the page that have sections, and the names of the parts without metrics."""
    groups, missing = [], []
    for title, parts in parts_of(reports, evaluations, claims, made).items():
        found = {name: [section for section in part() if section] for name, part in parts.items()}
        missing += [name for name, part in found.items() if not part]
        groups.append(Group(title, [section for part in found.values() for section in part]))
    return [group for group in groups if group.sections], missing


def stages_of(reports: Reports, made: Origin) -> Section:
    """The graph of the stages, a table of what they do, the params with which they ran, and which of those are not
    the committed ones."""
    drawn = graph.draw(reports.stages)
    rows = [
        [one.name, one.does, one.takes or "–", str(one.count), ", ".join(one.parents) or "–"] for one in drawn.nodes
    ]
    table = Table(["stage", "what it does", "time and size", "runs", "reads from"], rows)
    facts = {"params": as_yaml(reports.params)}
    changed = Table(["parameter", "committed", "of this run"], [[*one] for one in made.changed])
    tables = [table, changed] if made.changed else [table]
    return Section("stages", "Stages", facts, tables=tables, parts=[("graph", drawn)])


def render(
    groups: list[Group], missing: list[str], reports: Reports, evaluations: Evaluations, claims: list[Claim],
    made: Origin,
) -> str:  # fmt: skip
    """The page's HTML."""
    return environment().get_template(TEMPLATES[0]).render(
        groups=groups, missing=missing, left_out=reports.left_out(), images=reports.images, stale=reports.stale(),
        summary=summary(reports, evaluations), made=made.said, weak=weak_encoder(reports), claims=by_verdict(claims),
    )  # fmt: skip


def environment() -> Environment:
    """The templates beside this file, with the filters that they use."""
    loader = FunctionLoader(source_of)
    found = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )  # fmt: skip
    found.filters |= {"describe": describe, "protocol_lines": protocol_lines}
    return found


def source_of(name: str) -> str:
    """The text of a template beside this file."""
    return track(name, Path(__file__).with_name(name).read_text)


def as_yaml(params: dict[str, Any]) -> str:
    """Sorted, in blocks; empty for {}."""
    yaml, buffer = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(sorted(params.items())), buffer)
    return buffer.getvalue() if params else ""
