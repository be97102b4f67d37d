"""Usage of the codes of a codebook: metrics, the live fraction during training, revival of dead codes."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.codebook.quantizers import nearest
from stages.core.metrics import usage
from stages.core.results import write_metrics

SHARE_DECAY = 0.99  # of the running share of vectors that choose a code
LIVE_SHARE = 0.01  # a code is live while its running share is above this part of 1 / K
WARN_BELOW = 0.5  # live fraction
REVIVE = "set revive_dead_codes: true in its section"


def count_usage(batches: Iterable[Tensor], num_codes: int) -> dict[str, float]:
    """Usage metrics of batches of int64 codes [...], iterated in inference mode and counted on their device."""
    counts = torch.zeros(num_codes, dtype=torch.int64)
    with torch.inference_mode():
        for codes in batches:
            counts = counts.to(codes.device) + torch.bincount(codes.flatten(), minlength=num_codes)
    return usage(counts.cpu().numpy())


def write_usage(report: Path, by_split: dict[str, dict[str, float]], **more: Any) -> None:
    """Write metrics.json: usage per split, and the kind's own metrics. Print one line per split."""
    write_metrics(report, {**by_split, **more})
    for split, metrics in by_split.items():
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def running_share(share_K: Tensor, codes: Tensor) -> Tensor:
    """float [K]: the running share of vectors that choose each code, updated by one batch of codes int64 [...]."""
    now = torch.bincount(codes.flatten(), minlength=len(share_K)) / codes.numel()
    return SHARE_DECAY * share_K + (1 - SHARE_DECAY) * now


def live_fraction(share_K: Tensor) -> Tensor:
    """Scalar: the part of the codes that are in use, from their running shares."""
    return (share_K * len(share_K) > LIVE_SHARE).float().mean()


def kept_fraction(share_K: Tensor) -> Tensor:
    """float [K]: how much of itself a code keeps (CVQ-VAE, Zheng & Vedaldi 2023, eq. 4, as in VQ-KD's Cluster).

    1 - exp(-10 K p / (1 - 0.99) - 0.001) with p its running share: a dead code keeps 0.001, one with p = 1 / K all.
    """
    return 1 - torch.exp(-share_K * len(share_K) * 10 / (1 - SHARE_DECAY) - 1e-3)


@torch.no_grad()
def revive_dead_codes(vectors_KD: Tensor, share_K: Tensor, features_MD: Tensor) -> None:
    """Move each code, in place, towards its nearest vector of the batch; the less it is used, the further."""
    kept = kept_fraction(share_K)[:, None]
    vectors_KD.lerp_(features_MD[nearest(vectors_KD, features_MD)], 1 - kept)


def warn_of_collapse(name: str, live: float, remedy: str) -> None:
    """One line on stderr with the kind's remedy if fewer than half of the codes are in use."""
    if live < WARN_BELOW:
        print(f"warning: {name}: only {live:.0%} of the codes are in use. To fix it, {remedy}.", file=sys.stderr)
