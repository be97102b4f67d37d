"""The page: all sections, rendered with template.html (layout) and prose.html (text).

Metrics of the stage `reconstruction` are required; the page lists other parts that are missing. Metrics of different
protocols never share a table, those of other images than the evaluations' are left out and named.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from ruamel.yaml import YAML

from stages.core.artifact import write_atomically
from stages.core.code import track
from stages.report import decoders, generators, sections, studies
from stages.report.captions import captions
from stages.report.gather import Reports, read_evaluations
from stages.report.sections import Section
from stages.report.tables import protocol_lines

LAYOUT, PROSE = "template.html", "prose.html"


def write_page(reports: Reports, out: Path) -> None:
    """Write the page `out`, and print its size and what is missing."""
    shown, missing = collect(reports)
    missing += [] if reports.params else ["params (no dvc.lock)"]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render(shown, missing, reports).encode())
    notes = {"missing": missing, "stale": list(reports.stale())}
    said = "".join(f"; {note}: {', '.join(names)}" for note, names in notes.items() if names)
    print(f"report: {out}, {out.stat().st_size / 1e6:.1f} MB{said}")


def collect(reports: Reports) -> tuple[list[Section], list[str]]:
    """The sections of the page in order, and the names of those without metrics."""
    evaluations = read_evaluations(reports)
    parts: dict[str, Callable[[], list[Section | None]]] = {
        "tokenizers": lambda: [sections.tokenizers(reports, evaluations)],
        "generated images": lambda: [sections.generated_images(evaluations)],
        "reconstructions": lambda: [sections.reconstructions(reports, evaluations)],
        "decoding steps": lambda: [*decoders.study(reports)],
        "samples": lambda: [*sections.samples(reports, evaluations), *captions(reports)],
        "sampling settings": lambda: [generators.sampling(reports), generators.editing(reports)],
        "resolution transfer": lambda: [decoders.resolution_transfer(reports)],
        "encoder probe": lambda: [studies.probe(reports)],
        "codebooks": lambda: [sections.codebooks(reports)],
        "code analysis": lambda: [studies.code_analysis(reports)],
        "codebook ablation": lambda: [studies.ablation(reports)],
        "noise robustness": lambda: [studies.noise_robustness(reports, evaluations)],
        "PCA and LDA": lambda: [studies.pca_vs_lda(reports)],
        "training curves": lambda: [sections.training(reports)],
        "all metrics": lambda: [sections.all_metrics(evaluations)],
    }
    found = {name: [section for section in part() if section] for name, part in parts.items()}
    return [section for part in found.values() for section in part], [name for name, part in found.items() if not part]


def render(shown: list[Section], missing: list[str], reports: Reports) -> str:
    """The page's HTML."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source_of),
    )
    return environment.get_template(LAYOUT).render(
        sections=shown, missing=missing, left_out=reports.left_out(), params=as_yaml(reports.params),
        images=reports.images, stale=reports.stale(), protocol_lines=protocol_lines,
    )  # fmt: skip


def source_of(name: str) -> str:
    """The text of a template beside this file."""
    return track(name, Path(__file__).with_name(name).read_text)


def as_yaml(params: dict[str, Any]) -> str:
    """Sorted, in blocks; empty for {}."""
    yaml, buffer = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(sorted(params.items())), buffer)
    return buffer.getvalue() if params else ""
