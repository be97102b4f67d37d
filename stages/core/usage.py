"""How codes are used: by a data set (live codes, entropy, perplexity) and by each image (its bag of codes)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def bags(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """codes [M, N] -> float32 [M, num_codes]: the share of each image's positions that has each code; rows sum to 1."""
    import numpy as np

    flat = np.arange(len(codes))[:, None] * num_codes + codes.astype(np.int64)
    counts = np.bincount(flat.ravel(), minlength=len(codes) * num_codes)
    return (counts / codes.shape[1]).astype(np.float32).reshape(len(codes), num_codes)
