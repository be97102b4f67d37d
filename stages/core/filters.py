"""From logits to drawn codes: guidance, temperature, top-k, top-p, and a draw from given uniform noise."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 - a) u + a c; a = 1 is conditional, a = 0 unconditional."""
    return (1 - guidance) * unconditional + guidance * conditional


def probabilities(logits: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """float [..., K] -> probabilities after temperature, then top-k (0: off), then top-p (1: off).

    top-k keeps exactly k codes, top-p the smallest set of likeliest codes whose mass reaches p, at least one;
    among equals the lower code counts as likelier.
    """
    if not top_k and top_p == 1:
        return (logits / temperature).softmax(-1)
    ordered, order = torch.sort(logits / temperature, dim=-1, descending=True, stable=True)
    ranks = torch.arange(ordered.shape[-1], device=logits.device)
    if top_k:
        ordered = ordered.masked_fill(ranks >= top_k, -torch.inf)
    share = ordered.softmax(-1)
    before = share.cumsum(-1) - share
    kept = share.masked_fill((before >= top_p) & (ranks > 0), 0)
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def draw(share: Tensor, uniform: Tensor) -> Tensor:
    """Probabilities [..., K], uniforms in [0, 1) [...] -> int64 [...], by inversion; never a code of probability 0."""
    cumulative = share.cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    codes = torch.searchsorted(cumulative, threshold, right=True)[..., 0]
    # Rounding may place the threshold on the very end: step back to the code with which the end is reached.
    return torch.minimum(codes, torch.searchsorted(cumulative, cumulative[..., -1:].contiguous())[..., 0])
