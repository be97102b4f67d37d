"""One progress bar on the console; quiet where nobody watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(name: str, total: int, done: int, unit: str) -> tqdm:
    """A tqdm bar that refreshes ten times a second on a terminal and every ten seconds in a log; rank 0 only."""
    from tqdm import tqdm

    from stages.core import distributed

    every = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        desc=name, total=total, initial=done, unit=f" {unit}", mininterval=every, disable=distributed.rank() > 0
    )
