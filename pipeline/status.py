"""What is up to date, what is not, and why: a line a stage, in the order of the graph.

Run:    semtok status
Expect: seconds, whatever else is at work; nothing is changed. A Prefect server is not needed.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.outlook import Outlook, look

DURATIONS = Path("scratch/durations")
COLUMNS = 120
SHOWN = 2  # reasons in words; of the others the number
HEADER = ("stage", "state", "last took")


def print_status() -> None:
    """The table and one line of advice."""
    outlook = look()
    states = states_of(outlook)
    rows = [HEADER, *((name, states[name], last_took(name)) for name in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    room = COLUMNS - sum(widths) - 2 * len(widths)
    for name, row in zip([None, *states], rows, strict=True):
        why = shorten(outlook.reasons.get(name, []), room) if name else "why"
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), why]).rstrip())
    print(f"\n{advice(states)}")


def states_of(outlook: Outlook) -> dict[str, str]:
    """One word a stage. What waits is itself unchanged, but made from what will be."""
    frozen, late = outlook.frozen(), outlook.late()

    def state(name: str) -> str:
        if name in outlook.running:
            return "running"
        if name in frozen:
            return "frozen"
        if name in late:
            return "stale" if name in outlook.reasons else "waits"
        return "in use" if name in outlook.unknown else "up to date"

    return {name: state(name) for name in outlook.nodes}


def advice(states: dict[str, str]) -> str:
    """What to do next."""
    count = {word: [*states.values()].count(word) for word in set(states.values())}
    if "running" in count:
        return "a run is at work: `semtok ui` says where to watch it"
    if "in use" in count:
        return "a DVC process is at work: what is in use can be told when it is done"
    if todo := count.get("stale", 0) + count.get("waits", 0):
        return f"`semtok run` runs these {todo} stages, or restores them where DVC has seen the same inputs and params"
    return "everything is up to date"


def last_took(name: str) -> str:
    """How long the stage ran the last time on this machine; empty if it never did."""
    try:
        seconds = json.loads((DURATIONS / f"{name}.json").read_text())["seconds"]
    except (FileNotFoundError, ValueError, KeyError):
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def shorten(reasons: list[str], room: int) -> str:
    """The first reasons and how many more there are, in at most `room` characters."""
    for shown in range(min(SHOWN, len(reasons)), 0, -1):
        more = len(reasons) - shown
        text = ", ".join(reasons[:shown]) + (f", +{more} more" if more else "")
        if len(text) <= room:
            return text
    return f"{reasons[0][: room - 1]}…" if reasons else ""
