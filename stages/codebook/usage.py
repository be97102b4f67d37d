"""How a codebook is used: live codes, entropy, perplexity."""

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
