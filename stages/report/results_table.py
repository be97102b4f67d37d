"""Write the tables of the default run into docs/results.md, from the metrics below reports/, and docs/claims.md.

Run:    python -m stages.report.results_table --machine "two CPU cores without bf16 instructions"
Expect: a second, after `dvc repro` in a clean clone. A test fails while the tables differ from the committed metrics.

No stage: DVC does not run it, because documents are no artifacts. The text around the two markers stays.
"""

import argparse
import re
from pathlib import Path

from stages.core import UserError, code, runtime
from stages.core.artifact import write_atomically
from stages.report import claims
from stages.report.gather import Reports, read_evaluations, read_reports
from stages.report.probe import probe
from stages.report.sections import generated_images, reconstructions
from stages.report.tables import Table

DOCUMENT, RULES = code.ROOT / "docs" / "results.md", code.ROOT / "docs" / "claims.md"
BLOCK = re.compile(r"(?<=<!-- default run -->\n).*(?=<!-- end of the default run -->)", re.S)
LEFT_OUT = re.compile(
    r"gkid|near copies|class accuracy of real val|(precision|recall)\[classifier"
)  # the report has all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", required=True, help="the kind of machine that made the metrics")
    args = parser.parse_args()
    write(DOCUMENT, args.machine, tables_of(committed()))
    write_atomically(RULES, claims.document().encode())


def committed() -> Reports:
    """The repository's own metrics."""
    root = code.ROOT
    return read_reports(root / "reports", root / "dvc.yaml", root / "params.yaml", root / "dvc.lock")


def tables_of(reports: Reports) -> str:
    """The report's tables of reconstructions, samples and probe, as Markdown."""
    evaluations = read_evaluations(reports)
    sections = [reconstructions(reports, evaluations), generated_images(evaluations), probe(reports)]
    return "".join(
        f"\n{section.title}{differs(table)}:\n\n{markdown(table)}"
        for section in sections
        if section
        for table in section.tables
    )


def differs(table: Table) -> str:
    """What keeps a table apart from the one above it."""
    return f" of another protocol ({', '.join(table.differs)})" if table.differs else ""


def markdown(table: Table) -> str:
    """A table without the columns that a reader of the report alone needs."""
    kept = [place for place, column in enumerate(table.columns) if not LEFT_OUT.match(column)]
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "".join("| " + " | ".join(line[place] for place in kept) + " |\n" for line in lines)


def write(document: Path, machine: str, tables: str) -> None:
    """Put the tables and the kind of machine between the markers."""
    text = document.read_text()
    if not BLOCK.search(text):
        raise UserError(f"{document}: expected the lines <!-- default run --> and <!-- end of the default run -->")
    told = f"\nThe committed metrics (`reports/`) are of one run on {machine}.\n{tables}\n"
    write_atomically(document, BLOCK.sub(lambda _: told, text).encode())


if __name__ == "__main__":
    runtime.run(main)
