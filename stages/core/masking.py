"""Codes all at once, in a few steps (MaskGIT, Chang et al. 2022; DiGIT's stage 2): masks, loss, bound and sampling.

A model here is called model(given [B, ...], codes [B, N], at bool [B, N]) -> logits float32 [M, K] of the M positions
where `at` is true, row-major; it has `num_codes` (K, the code that means "masked") and `num_patches` (N); every
position sees every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.distributed import share_of, world_size
from stages.core.filters import draw, probabilities


def training_counts(uniform_B: Tensor, num_patches: int) -> Tensor:
    """How many positions to mask, int64 [B]: floor(N cos(u π/2) + 1), clamped to 1 … N; on average about 2/π of N."""
    return (num_patches * (uniform_B * math.pi / 2).cos() + 1).floor().long().clamp(1, num_patches)


def still_masked(step: int, steps: int, masked_before: int, num_patches: int) -> int:
    """Positions masked after `step` (from 0): floor(N cos(π/2 (t+1)/T)), falling but at least 1; 0 after the last.

    Of more steps than positions some do no more than draw one code again.
    """
    if step == steps - 1:
        return 0
    wanted = math.floor(num_patches * math.cos(math.pi / 2 * (step + 1) / steps))
    return max(1, min(masked_before - 1, wanted))


def random_mask(counts_B: Tensor, num_patches: int, rng: torch.Generator) -> Tensor:
    """bool [B, N] with exactly counts_B true entries a row, at random places."""
    ranks = torch.rand(len(counts_B), num_patches, generator=rng).argsort(1).argsort(1)
    return ranks < counts_B.cpu()[:, None]


def loss(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of the masked codes given the others, in nats.

    The masks are those of the whole batch. Shares differ in how many codes they mask, and are weighted by it, so that
    the mean of all processes' losses is the mean over all masked codes.
    """
    counts = training_counts(torch.rand(len(codes_BN) * world_size(), generator=rng), model.num_patches)
    whole = random_mask(counts, model.num_patches, rng)
    weight = int(share_of(whole).sum()) * world_size() / int(whole.sum())
    mask_BN = share_of(whole).to(codes_BN.device)
    logits_MK = model(given, codes_BN.masked_fill(mask_BN, model.num_codes), mask_BN)
    return weight * F.cross_entropy(logits_MK, codes_BN[mask_BN], label_smoothing=label_smoothing)


def nats(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """An upper bound on -ln p(codes | given) in expectation, float [B]; unbiased for the random-order bound.

    With m masked positions, m uniform in 1 … N: N / m times the summed cross-entropy of the masked codes
    (order-agnostic models, Uria et al. 2014; Hoogeboom et al. 2022, eq. 5).
    """
    counts = torch.randint(1, model.num_patches + 1, (len(codes_BN),), generator=rng)
    mask_BN = random_mask(counts, model.num_patches, rng).to(codes_BN.device)
    logits_MK = model(given, codes_BN.masked_fill(mask_BN, model.num_codes), mask_BN)
    each = logits_MK.new_zeros(codes_BN.shape)
    each[mask_BN] = F.cross_entropy(logits_MK, codes_BN[mask_BN], reduction="none")
    return each.sum(1) * model.num_patches / counts.to(each.device)


def draw_by_steps(
    logits_of: Callable[[Tensor, Tensor], Tensor],
    uniform: Tensor,
    *,
    num_codes: int,
    temperature: float,
    top_k: int,
    top_p: float,
    choice_temperature: float,
) -> Tensor:
    """int64 [B, N] from uniforms [B, T, 2, N].

    logits_of(codes [B, N], `num_codes` where masked; bool [B, N], where that is) -> [M, K] of the M masked positions.

    Each of the T steps fills all masked positions and keeps those of highest confidence,
    log p + choice_temperature * (1 - (t+1)/T) * Gumbel; a code once kept is never masked again.
    """
    (batch, steps, _, num_patches), masked = uniform.shape, uniform.shape[3]
    codes = torch.full((batch, num_patches), num_codes, device=uniform.device)
    for step in range(steps):
        unknown = codes == num_codes
        share = probabilities(logits_of(codes, unknown), temperature=temperature, top_k=top_k, top_p=top_p)
        filled = draw(share, uniform[:, step, 0][unknown])
        gumbel = -(-uniform[:, step, 1][unknown].clamp(1e-9, 1 - 1e-7).log()).log()
        sureness = torch.full(codes.shape, torch.inf, device=codes.device)
        sureness[unknown] = share.gather(1, filled[:, None])[:, 0].log()
        sureness[unknown] += choice_temperature * (1 - (step + 1) / steps) * gumbel
        codes[unknown] = filled
        masked = still_masked(step, steps, masked, num_patches)
        again = sureness.argsort(stable=True, dim=1)[:, :masked]
        codes.scatter_(1, again, num_codes)
    return codes
