"""One progress bar on the console and, for whoever watches, as events; quiet where nobody does."""

import sys
import time

from tqdm import tqdm

from stages.core import distributed, events

EVENT_SECS = 1.0


class Bar(tqdm):
    """tqdm that also emits progress events: one in EVENT_SECS at most, and one at the end."""

    told = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        """Advance by n."""
        shown = super().update(n)
        if self.disable:
            return shown
        facts = self.format_dict
        if facts["n"] >= facts["total"] or time.monotonic() - self.told >= EVENT_SECS:
            self.told = time.monotonic()
            rate = (facts["n"] - facts["initial"]) / max(facts["elapsed"], 1e-9)
            events.progress(self.desc.rstrip(": "), facts["n"], facts["total"], facts["unit"].strip(), rate)
        return shown


def bar(name: str, total: int, done: int, unit: str) -> Bar:
    """A bar that refreshes ten times a second on a terminal and every ten seconds in a log; rank 0 only."""
    every = 0.1 if sys.stderr.isatty() else 10.0
    return Bar(desc=name, total=total, initial=done, unit=f" {unit}", mininterval=every, disable=distributed.rank() > 0)
