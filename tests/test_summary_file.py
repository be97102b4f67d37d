"""reports/summary.json: few numbers, those of the report's first screen, so that DVC's tables can be read.

Run: uv run pytest tests/test_summary_file.py        (the table of experiments: -m slow)
"""

import csv
import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import toy as toys
import written_reports as written

from stages.report.summary_file import write_summary

MOST = 15  # columns of the documented table


def test_it_has_the_best_generators_numbers_and_no_more(tmp_path):
    reports = written.write_few(tmp_path)
    write_summary(written.read(reports), reports / "summary.json")
    summary = json.loads((reports / "summary.json").read_text())["summary"]
    tokenizer, decoder, generator = summary["best"].split("-")
    name = f"{tokenizer}-{decoder}"
    drawn = json.loads((reports / f"generation/{name}/metrics.json").read_text())[generator]
    made = json.loads((reports / f"reconstruction/{name}/metrics.json").read_text())["reconstruction"]
    [distance] = [key for key in summary if key.startswith("gfid[")]
    assert summary[distance] == pytest.approx(drawn[distance]) and summary["psnr_db"] == pytest.approx(made["psnr_db"])
    assert len(summary) <= 7 and all(not isinstance(value, list | dict) for value in summary.values())


def test_uncached_files_are_metrics_or_plots_so_that_dvc_restores_their_stages():
    """DVC 3.67.1 puts no stage into its run cache that has another uncached output: a value changed back would rerun
    hours of training."""
    for name, stage in toys.STAGES.items():
        uncached = [out for out in stage.get("outs", []) if isinstance(out, dict)]
        assert not uncached or stage.get("frozen"), f"{name}: {uncached}"


@pytest.mark.slow
def test_the_documented_table_of_experiments_has_few_columns(tmp_path):
    [options] = set(re.findall(r"uv run dvc exp show (--[^`#\n]*[^`#\s])", (toys.ROOT / "README.md").read_text()))
    root = tmp_path / "semtok"
    subprocess.run(["git", "clone", "-q", str(toys.ROOT), str(root)], check=True)
    names = (
        "best",
        "gfid[classifier]",
        "class_accuracy",
        "val_bits_per_image",
        "rfid[classifier]",
        "psnr_db",
        "live_codes",
    )
    for number in (1, 2):
        summary = {"summary": {name: number * (place + 1) for place, name in enumerate(names)}}
        (root / "reports/summary.json").write_text(json.dumps(summary))
        metrics = root / "reports/reconstruction/kmeans-onestep/metrics.json"  # as of any stage: hundreds of numbers
        metrics.write_text(re.sub(r"\d\.\d+", str(number), metrics.read_text()))
        text = (root / "params.yaml").read_text().replace("num_codes: 256 ", "num_codes: 512 ")
        (root / "params.yaml").write_text(text if number == 2 else (root / "params.yaml").read_text())
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([*git, "add", "-A"], cwd=root, check=True)
        subprocess.run([*git, "commit", "-qm", str(number)], cwd=root, check=True)
    command = [sys.executable, "-m", "dvc", "exp", "show", "-n", "2", "--csv", *shlex.split(options)]
    table = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    head = next(csv.reader(io.StringIO(table)))
    assert {f"summary.{name}" for name in names} | {"codebook.kmeans.num_codes"} <= {*head}
    assert len(head) <= MOST, head
