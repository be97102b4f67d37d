"""Usage of the codes of a codebook: metrics, the live fraction during training, revival of dead codes."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.codebook.params import Inputs
from stages.codebook.quantizers import nearest
from stages.core import artifact
from stages.core.metrics import FEW_LIVE, few_live, usage
from stages.core.results import Curves

SHARE_DECAY = 0.99  # of the running share of vectors that choose a code
LIVE_SHARE = 0.01  # a code is live while its running share is above this part of 1 / K
REVIVE = "set revive_dead_codes: true in its section"


def count_usage(batches: Iterable[Tensor], num_codes: int) -> dict[str, float]:
    """Usage metrics of batches of int64 codes [...]."""
    return usage(count_batches(batches, num_codes))


def count_batches(batches: Iterable[Tensor], num_codes: int) -> np.ndarray:
    """int64 [K] of batches of int64 codes [...], iterated in inference mode and counted on their device."""
    counts = torch.zeros(num_codes, dtype=torch.int64)
    with torch.inference_mode():
        for codes in batches:
            counts = counts.to(codes.device) + torch.bincount(codes.flatten(), minlength=num_codes)
    return counts.cpu().numpy()


def write_usage(
    inputs: Inputs, curves: Curves, num_codes: int, by_split: dict[str, dict[str, float]], remedy: str, **more: Any
) -> None:
    """Write the curves, and metrics.json: usage per split and the kind's own metrics. Print one line per split.

    A warning with the kind's remedy follows if few codes occur in the train images.
    """
    images = artifact.images_digest(inputs.images)
    curves.write(inputs.report, images, {"num_codes": num_codes, **by_split, **more})
    for split, metrics in by_split.items():
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    if few := few_live(int(by_split["train"]["live_codes"]), num_codes):
        print(f"warning: {inputs.name}: only {few} are in use on train. To fix it, {remedy}.", file=sys.stderr)


def running_share(share_K: Tensor, codes: Tensor) -> Tensor:
    """float [K]: the running share of vectors that choose each code, updated by one batch of codes int64 [...]."""
    now = torch.bincount(codes.flatten(), minlength=len(share_K)) / codes.numel()
    return SHARE_DECAY * share_K + (1 - SHARE_DECAY) * now


def live_fraction(share_K: Tensor) -> Tensor:
    """Scalar: the part of the codes that recent batches chose, from their running shares."""
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
    """One line on stderr, during training, if few codes were chosen lately; `write_usage` counts them at the end."""
    if live < FEW_LIVE:
        print(
            f"warning: {name}: recent batches chose {live:.1%} of the codes. If it stays so, {remedy}.", file=sys.stderr
        )
