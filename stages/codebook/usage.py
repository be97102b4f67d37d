"""How a codebook is used: live codes, entropy, perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.figures import write_figures

if TYPE_CHECKING:
    import numpy as np


def usage(counts: np.ndarray) -> dict[str, float]:
    """From how often each of K codes occurs, int [K].

    `live_codes` occur at all, `live_fraction` = live_codes / K; entropy in nats, at most ln K;
    perplexity = exp(entropy), K for uniform use, 1 for a single code.
    """
    import numpy as np

    share = counts[counts > 0] / counts.sum()
    entropy = float(max(0.0, -(share * np.log(share)).sum()))
    live = int((counts > 0).sum())
    return {
        "live_codes": live,
        "live_fraction": live / len(counts),
        "entropy_nats": entropy,
        "perplexity": float(np.exp(entropy)),
    }


def write_usage(report: Path, by_split: dict[str, dict[str, float]], **more: Any) -> None:
    """metrics.json: usage of both splits and what else a kind has to say; a line for each split on the console."""
    write_figures(report, {**by_split, **more})
    for split, figures in by_split.items():
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
