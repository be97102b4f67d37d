"""Figures as a stage leaves them for DVC and the report: metrics.json, and tables for `dvc plots`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.core.artefact import write_atomically


def rounded(figures: Any) -> Any:
    """The same tree with every float at six significant digits: more would differ between machines only."""
    if isinstance(figures, float):
        return float(f"{figures:.6g}")
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    return [rounded(value) for value in figures] if isinstance(figures, list | tuple) else figures


def write_figures(folder: Path, figures: dict[str, Any]) -> None:
    """Write `folder`/metrics.json; a NaN or infinity is a ValueError, since JSON has none.

    `dvc metrics show` prints numbers and strings and leaves lists out: protocols are lists for that reason.
    """
    text = json.dumps(rounded(figures), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "metrics.json", (text + "\n").encode())


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[float]]) -> None:
    """Write a TSV file with one line of names; numbers have six significant digits."""
    lines = [head, *([f"{value:.6g}" for value in row] for row in rows)]
    write_atomically(path, "".join("\t".join(line) + "\n" for line in lines).encode())
