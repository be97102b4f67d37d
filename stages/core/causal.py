"""Codes one after the other, each given what is before it: loss, likelihood and sampling.

A model here is called model(given [B, ...], codes [B, N]) -> logits float32 [B, N, K]; logits of position t depend on
`given` and on codes before t alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.filters import draw, probabilities


def loss(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of every code given the codes before it, in nats."""
    return F.cross_entropy(model(given, codes_BN).flatten(0, 1), codes_BN.flatten(), label_smoothing=label_smoothing)


def nats(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """-ln p(codes | given) of each image, float [B]: exact."""
    logits_BNK = model(given, codes_BN)
    return F.cross_entropy(logits_BNK.flatten(0, 1), codes_BN.flatten(), reduction="none").view_as(codes_BN).sum(1)


def draw_in_order(
    next_logits: Callable[[Tensor | None, int], Tensor],
    uniform_BN: Tensor,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    """int64 [B, N] by inversion of uniforms; next_logits(code before or None, position) -> logits [B, K]."""
    codes: list[Tensor] = []
    for position in range(uniform_BN.shape[1]):
        logits = next_logits(codes[-1] if codes else None, position)
        share = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
        codes.append(draw(share, uniform_BN[:, position]))
    return torch.stack(codes, 1)
