"""What a run came to: one Markdown artefact with stages, outcomes, seconds, reasons, and what DVC's diffs say."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import server

if TYPE_CHECKING:
    from prefect.states import State

    from pipeline.graph import Node

REPORT = Path("reports/index.html")


Row = tuple[str, str, str, str]


def publish(
    nodes: dict[str, Node],
    states: dict[str, State],
    outcomes: dict[str, tuple[str, float]],
    reasons: dict[str, list[str]],
) -> str:
    """Publish the artefact `summary`; returns the one-line version."""
    from prefect import get_run_logger
    from prefect.artifacts import create_markdown_artifact

    rows = [
        row(name, states[name], outcomes.get(name), reasons.get(name) or above(node, outcomes))
        for name, node in nodes.items()
    ]
    counts = Counter(outcome for _, outcome, _, _ in rows)
    line = f"{len(rows)} stages: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    log = get_run_logger()
    for cells in rows:
        log.info("%-28s %-10s %7s  %s", *cells)
    log.info("%s", line)
    if server.answers():
        create_markdown_artifact("\n\n".join([line, table(rows), *diffs(counts), report_link()]), "summary", line)
    return line


def row(name: str, state: State, outcome: tuple[str, float] | None, reasons: list[str]) -> Row:
    """Stage, outcome, seconds, why."""
    if outcome is None:
        return name, "not run" if state.name == "NotReady" else "failed", "", shorten(state.message or "")
    return name, outcome[0], f"{outcome[1]:.1f}", shorten(", ".join(reasons))


def above(node: Node, outcomes: dict[str, tuple[str, float]]) -> list[str]:
    """`codebook@kmeans ran` for each upstream whose outputs may be other ones now."""
    known = {name: outcomes[name][0] for name in node.waits_for if name in outcomes}
    return [f"{name} {outcome}" for name, outcome in known.items() if outcome != "unchanged"]


def shorten(text: str) -> str:
    """One line of at most 160 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:159] + "…"


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows]
    return "\n".join(["| stage | outcome | seconds | why |", "|---|---|---:|---|", *lines])


def diffs(counts: Counter[str]) -> list[str]:
    """Metrics and params against the last commit, where something was computed and git can tell."""
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
    """Where the report is; a path, since a browser follows no link from a server's page to a file."""
    return f"The report: `{REPORT.absolute().as_uri()}`" if REPORT.is_file() else "No report yet."
