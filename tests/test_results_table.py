"""The default run's tables in docs/results.md are those of the committed metrics.

Run: uv run pytest tests/test_results_table.py
"""

import json
import shutil

import pytest

from stages.core import UserError
from stages.report.gather import read_reports
from stages.report.results_table import BLOCK, DOCUMENT, committed, tables_of, write

ROOT = DOCUMENT.parents[1]
MARKERS = "before\n<!-- default run -->\nold\n<!-- end of the default run -->\nafter\n"


def test_the_tables_of_the_default_run_are_those_of_the_committed_metrics():
    [block] = BLOCK.findall(DOCUMENT.read_text())
    assert block.endswith(f".\n{tables_of(committed())}\n"), "run python -m stages.report.results_table --machine …"


def test_another_metric_makes_another_table_and_what_the_report_does_not_share_stands_apart(tmp_path):
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    path = tmp_path / "reports/reconstruction/kmeans-onestep/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["reconstruction"] |= {"rfid[classifier]": 1.6912, "rfid[classifier]_std": 0.15}
    path.write_text(json.dumps(metrics))
    found = tables_of(
        read_reports(tmp_path / "reports", *(ROOT / name for name in ("dvc.yaml", "params.yaml", "dvc.lock")))
    )
    assert "| 1.691 ± 0.15 |" in found and "1.691 ± 0.15" not in tables_of(committed())
    assert "Generated images of another protocol (" in found and "real val images" in found


def test_only_what_stands_between_the_markers_is_replaced(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(MARKERS)
    write(document, "two cores", "\n| a |\n")
    first = document.read_text()
    assert first.startswith("before\n<!-- default run -->\n") and first.endswith(
        "<!-- end of the default run -->\nafter\n"
    )
    assert "of one run on two cores.\n\n| a |\n" in first and "old" not in first
    write(document, "two cores", "\n| a |\n")
    assert document.read_text() == first
    document.write_text("no markers")
    with pytest.raises(UserError, match="expected the lines <!-- default run -->"):
        write(document, "two cores", "")
