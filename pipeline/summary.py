"""The summary of a run: one Markdown artifact with stages, outcomes, seconds, reasons, and DVC's diffs."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import State

from pipeline import server
from pipeline.graph import Node

REPORT = Path("reports/index.html")
COLUMNS = 160
Row = tuple[str, str, str, str]
Outcomes = dict[str, tuple[str, float]]  # stage -> what DVC did, seconds


def publish(nodes: dict[str, Node], states: dict[str, State], outcomes: Outcomes, reasons: dict[str, list[str]]) -> str:
    """Log the summary and publish it as the artifact `summary`; its first line."""
    rows = [
        row(name, states[name], outcomes.get(name), reasons.get(name) or changed_upstream(node, outcomes))
        for name, node in nodes.items()
    ]
    counts = Counter(outcome for _, outcome, _, _ in rows)
    line = f"{len(rows)} stages: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    same = [name for name, outcome, _, _ in rows if outcome == "unchanged"]
    for cells in rows:
        if cells[1] != "unchanged":
            get_run_logger().info("%-28s %-10s %7s  %s", *cells)
    if same:
        get_run_logger().info("unchanged: %s", ", ".join(same))
    get_run_logger().info("%s", line)
    if server.answers():
        create_markdown_artifact("\n\n".join([line, table(rows), *diffs(counts), report_link()]), "summary", line)
    return line


def row(name: str, state: State, outcome: tuple[str, float] | None, reasons: list[str]) -> Row:
    """Stage, outcome, seconds, why."""
    if outcome is None:
        return name, "not run" if state.name == "NotReady" else "failed", "", shorten(state.message or "")
    return name, outcome[0], f"{outcome[1]:.1f}", shorten(", ".join(reasons))


def changed_upstream(node: Node, outcomes: Outcomes) -> list[str]:
    """`codebook@kmeans ran` for each upstream whose outputs may have changed."""
    upstream = {name: outcomes[name][0] for name in node.waits_for if name in outcomes}
    return [f"{name} {outcome}" for name, outcome in upstream.items() if outcome != "unchanged"]


def shorten(text: str) -> str:
    """One line of at most COLUMNS characters."""
    line = " ".join(text.split())
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows]
    return "\n".join(["| stage | outcome | seconds | why |", "|---|---|---:|---|", *lines])


def diffs(counts: Counter[str]) -> list[str]:
    """Metrics and params against the last commit, if a stage ran or was restored and git has a commit."""
    if not counts["ran"] + counts["restored"]:
        return []
    found = []
    for what in ("params", "metrics"):
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", what, "diff", "--md"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            found.append(f"### {what.capitalize()} against the last commit\n\n{done.stdout.strip()}")
    return found


def report_link() -> str:
    """The address of the report, as text: browsers do not follow links from a server's page to a file."""
    return f"The report: `{REPORT.absolute().as_uri()}`" if REPORT.is_file() else "No report yet."
