"""Dead codes: how a learned codebook is watched, and how codes that nothing chooses are put back among the rows."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from stages.codebook.quantise import nearest

SHARE_DECAY = 0.99  # of the running share of rows that choose a code
LIVE_SHARE = 0.01  # a code is live while its running share is above this part of 1 / K
WARN_BELOW = 0.5  # live fraction


def running_share(share_K: Tensor, codes: Tensor) -> Tensor:
    """float [K]: the running share of rows that choose each code, moved by one batch of codes [...]."""
    now = torch.bincount(codes.flatten(), minlength=len(share_K)) / codes.numel()
    return SHARE_DECAY * share_K + (1 - SHARE_DECAY) * now


def live_fraction(share_K: Tensor) -> Tensor:
    """Scalar: the part of the codes that are in use."""
    return (share_K * len(share_K) > LIVE_SHARE).float().mean()


def anchor_decay(share_K: Tensor) -> Tensor:
    """float [K]: how much of itself a code keeps (CVQ-VAE, Zheng & Vedaldi 2023, eq. 4, as VQ-KD's Cluster uses it).

    1 - exp(-10 K p / (1 - 0.99) - 0.001): a dead code keeps 0.001, one with its fair share 1 / K all.
    """
    return 1 - torch.exp(-share_K * len(share_K) * 10 / (1 - SHARE_DECAY) - 1e-3)


@torch.no_grad()
def reanchor(vectors_KD: Tensor, share_K: Tensor, rows_MD: Tensor) -> None:
    """Move each code, in place, the further towards its nearest row of the batch the less it is used."""
    decay = anchor_decay(share_K)[:, None]
    vectors_KD.lerp_(rows_MD[nearest(vectors_KD, rows_MD)], 1 - decay)


REANCHOR = "see that its section says reanchor: true"


def warn_of_collapse(name: str, live: float, remedy: str) -> None:
    """One line on stderr with the kind's remedy, where fewer than half of the codes are in use."""
    if live < WARN_BELOW:
        print(f"warning: {name}: only {live:.0%} of the codes are in use. To mend it, {remedy}.", file=sys.stderr)
