"""Everything under reports/ -> one page that needs nothing else: pictures, tables with their protocol, curves.

Run:    dvc repro report
Expect: 5 s; reports/index.html, about 2 MB for digits. Open it in any browser; it loads nothing from elsewhere.

Evaluations are required, other parts are named as missing in the page. Results of names that params.yaml no longer
asks for are left out, and named. Figures of different protocols never share a table. The params shown are those that
dvc.lock says the stages ran with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.core import runtime
from stages.core.artefact import write_atomically
from stages.core.guard import seen
from stages.report import gather

TEMPLATE = Path(__file__).with_name("template.html")


def build(reports: gather.Reports, out: Path, lock: Path) -> None:
    """Write the page `out`."""
    from stages.report import codes, comparison, decoders, sections, studies

    evaluations, study = gather.read_evaluations(reports), decoders.study(reports)
    params = used_params(lock, reports.names)
    optional = {
        "larger images": studies.resolution(reports),
        "encoder probe": sections.probe(reports),
        "codebook": sections.codebooks(reports),
        "anatomy of the codes": codes.anatomy(reports),
        "codebook ablation": codes.ablation(reports),
        "noise stability": studies.stability(reports),
        "projection toy": studies.projection(reports),
        "training curves": sections.training(reports),
    }
    parts = [
        comparison.comparison(reports, evaluations, params.get("data", {})),
        sections.headline(evaluations),
        sections.reconstructions(reports, evaluations),
        *study,
    ]
    parts += [
        *sections.samples(reports, evaluations),
        *filter(None, optional.values()),
        sections.everything(evaluations),
    ]
    missing = [
        name for name, part in {"decoders": study, **optional, "params (no dvc.lock)": params}.items() if not part
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render(parts, missing, reports.left_out(), as_yaml(params)).encode())
    print(f"report: {out}, {out.stat().st_size / 1e6:.1f} MB" + (f"; missing: {', '.join(missing)}" if missing else ""))


def render(parts: list[Any], missing: list[str], left_out: list[str], params: str) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    from stages.report.tables import protocol_lines

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(seen(str(TEMPLATE.name), TEMPLATE.read_text))
    return template.render(
        sections=parts, missing=missing, left_out=left_out, params=params, protocol_lines=protocol_lines
    )


def used_params(lock: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    """The params each stage last ran with, from DVC's own record; {} without one.

    The record keeps what has left a stage's names, and of the report an earlier run: neither made what is shown.
    """
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(lock).get("stages", {}) if lock.is_file() else {}
    found: dict[str, Any] = {}
    for entry, run in stages.items():
        stage, _, name = entry.partition("@")  # no name where the stage has no matrix
        if stage != "report" and name in names.get(stage, [""]):
            found |= run.get("params", {}).get("params.yaml", {})
    return found


def as_yaml(params: dict[str, Any]) -> str:
    """Sorted, in blocks; empty for {}."""
    import io

    from ruamel.yaml import YAML

    yaml, buffer = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(sorted(params.items())), buffer)
    return buffer.getvalue() if params else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, required=True, help="folder with the stages' reports")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    parser.add_argument("--lock", type=Path, default=Path("dvc.lock"), help="DVC's record of the params")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    build(gather.Reports(args.reports, gather.read_names(args.params)), args.out, args.lock)


if __name__ == "__main__":
    runtime.run(main)
