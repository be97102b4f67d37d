"""How a codebook is used: live codes, entropy, perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.core.figures import write_figures
from stages.core.usage import usage

__all__ = ["usage", "write_usage"]


def write_usage(report: Path, by_split: dict[str, dict[str, float]], **more: Any) -> None:
    """metrics.json: usage of both splits and what else a kind has to say; a line for each split on the console."""
    write_figures(report, {**by_split, **more})
    for split, figures in by_split.items():
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
