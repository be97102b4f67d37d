"""How a codebook is used: live codes, entropy, perplexity."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.figures import write_figures
from stages.core.usage import usage

if TYPE_CHECKING:
    from torch import Tensor


def count_usage(batches: Iterable[Tensor], num_codes: int) -> dict[str, float]:
    """Usage figures of int64 codes [...], drawn batch by batch in inference mode and counted on their device."""
    import torch

    counts = torch.zeros(num_codes, dtype=torch.int64)
    with torch.inference_mode():
        for codes in batches:
            counts = counts.to(codes.device) + torch.bincount(codes.flatten(), minlength=num_codes)
    return usage(counts.cpu().numpy())


def write_usage(report: Path, by_split: dict[str, dict[str, float]], **more: Any) -> None:
    """metrics.json: usage of both splits and what else a kind has to say; a line for each split on the console."""
    write_figures(report, {**by_split, **more})
    for split, figures in by_split.items():
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
