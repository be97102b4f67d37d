"""Print the status of every stage and the reasons why it is stale, one line per stage, in the order of the graph.

Run:    semtok status
Expect: seconds, whatever else is running; nothing is changed. No Prefect server is needed.
"""

import json
from pathlib import Path

from pipeline.dvc_status import read_status
from pipeline.stale import Status

DURATIONS = Path("scratch/durations")
COLUMNS = 120
REASONS_SHOWN = 2
HEADER = ("stage", "state", "last took")


def main() -> int:
    """Print the table and one line of advice."""
    status = read_status()
    states = states_of(status)
    rows = [HEADER, *((name, states[name], last_duration(name)) for name in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    room = COLUMNS - sum(widths) - 2 * len(widths)
    reasons = ["why", *(shorten(status.reasons.get(name, []), room) for name in states)]
    for row, reason in zip(rows, reasons, strict=True):
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), reason]).rstrip())
    print(f"\n{advice(states)}")
    return 0


def states_of(status: Status) -> dict[str, str]:
    """One word per stage. A stage that waits is unchanged, but something upstream of it is not."""
    frozen, affected = status.frozen(), status.affected()

    def state(name: str) -> str:
        if name in status.running:
            return "running"
        if name in frozen:
            return "frozen"
        if name in affected:
            return "stale" if name in status.reasons else "waits"
        return "in use" if name in status.unknown else "up to date"

    return {name: state(name) for name in status.nodes}


def advice(states: dict[str, str]) -> str:
    """What to do next."""
    words = [*states.values()]
    stale, waiting = words.count("stale"), words.count("waits")
    if "running" in words:
        return "a run is in progress: `semtok ui` says where to watch it"
    if "in use" in words:
        return "a DVC process is running: the state of what is in use is known when it is done"
    if not stale + waiting:
        return "everything is up to date"
    then = f", then those waiting ({waiting}) whose inputs changed" if waiting else ""
    return f"`semtok run` runs the stale stages ({stale}), or restores them from cache{then}"


def last_duration(name: str) -> str:
    """How long the stage took last time on this machine; empty if it never ran."""
    try:
        return duration(json.loads((DURATIONS / f"{name}.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def shorten(reasons: list[str], room: int) -> str:
    """The first reasons and the number of others, in at most `room` characters."""
    for shown in range(min(REASONS_SHOWN, len(reasons)), 0, -1):
        more = len(reasons) - shown
        text = ", ".join(reasons[:shown]) + (f", +{more} more" if more else "")
        if len(text) <= room:
            return text
    return f"{reasons[0][: room - 1]}…" if reasons else ""
