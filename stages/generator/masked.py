"""Masked generation (MaskGIT, Chang et al. 2022; the variant of DiGIT stage 2): all codes at once, in a few steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.distributed import share_of, world_size
from stages.generator.filters import draw, guide, noise, probabilities
from stages.generator.model import TokenTransformer
from stages.generator.settings import MaskedSampling

BOUND = "upper"


def training_counts(uniform_B: Tensor, num_patches: int) -> Tensor:
    """How many positions to mask, int64 [B]: floor(N cos(u π/2) + 1), clamped to 1 … N; on average about 2/π of N."""
    return (num_patches * (uniform_B * math.pi / 2).cos() + 1).floor().long().clamp(1, num_patches)


def still_masked(step: int, steps: int, masked_before: int, num_patches: int) -> int:
    """Positions masked after `step` (from 0): floor(N cos(π/2 (t+1)/T)), at least 1 and falling; 0 after the last."""
    if step == steps - 1:
        return 0
    wanted = math.floor(num_patches * math.cos(math.pi / 2 * (step + 1) / steps))
    return max(1, min(masked_before - 1, wanted))


def random_mask(counts_B: Tensor, num_patches: int, rng: torch.Generator) -> Tensor:
    """bool [B, N] with exactly counts_B true entries a row, at random places."""
    ranks = torch.rand(len(counts_B), num_patches, generator=rng).argsort(1).argsort(1)
    return ranks < counts_B.cpu()[:, None]


def loss(
    model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of the masked codes given the others and the class, in nats.

    The masks are those of the whole batch. Shares differ in how many codes they mask, and are weighted by it, so that
    the mean of all processes' losses is the mean over all masked codes.
    """
    counts = training_counts(torch.rand(len(codes_BN) * world_size(), generator=rng), model.num_patches)
    whole = random_mask(counts, model.num_patches, rng)
    weight = int(share_of(whole).sum()) * world_size() / int(whole.sum())
    mask_BN = share_of(whole).to(codes_BN.device)
    logits = model(labels_B, codes_BN.masked_fill(mask_BN, model.num_codes))
    return weight * F.cross_entropy(logits[mask_BN], codes_BN[mask_BN], label_smoothing=label_smoothing)


def nats(model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """An upper bound on -ln p(codes | class) in expectation, float [B]; unbiased for the random-order bound.

    With m masked positions, m uniform in 1 … N: N / m times the summed cross-entropy of the masked codes
    (order-agnostic models, Uria et al. 2014; Hoogeboom et al. 2022, eq. 5).
    """
    counts = torch.randint(1, model.num_patches + 1, (len(codes_BN),), generator=rng)
    mask_BN = random_mask(counts, model.num_patches, rng).to(codes_BN.device)
    logits = model(labels_B, codes_BN.masked_fill(mask_BN, model.num_codes))
    each = F.cross_entropy(logits.transpose(1, 2), codes_BN, reduction="none") * mask_BN
    return each.sum(1) * model.num_patches / counts.to(each.device)


@torch.inference_mode()
def sample(model: TokenTransformer, labels_B: Tensor, settings: MaskedSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the classes asked for. `first`: number of the first sample.

    Each step fills all masked positions and keeps those of highest confidence,
    log p + choice_temperature * (1 - (t+1)/T) * Gumbel; a code once kept is never masked again.
    """
    shape = (settings.steps, 2, model.num_patches)
    uniform = noise(seed, first, len(labels_B), shape, labels_B.device)
    codes = torch.full((len(labels_B), model.num_patches), model.num_codes, device=labels_B.device)
    masked = model.num_patches
    for step in range(settings.steps):
        if not masked:
            break
        share = probabilities(
            guided_logits(model, labels_B, codes, settings.guidance),
            temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
        )  # fmt: skip
        filled = draw(share, uniform[:, step, 0])
        unknown = codes == model.num_codes
        gumbel = -(-uniform[:, step, 1].clamp(1e-9, 1 - 1e-7).log()).log()
        sureness = share.gather(2, filled[..., None])[..., 0].log()
        sureness = sureness + settings.choice_temperature * (1 - (step + 1) / settings.steps) * gumbel
        codes = torch.where(unknown, filled, codes)
        masked = still_masked(step, settings.steps, masked, model.num_patches)
        again = sureness.masked_fill(~unknown, torch.inf).argsort(stable=True, dim=1)[:, :masked]
        codes = codes.scatter(1, again, model.num_codes)
    return codes


def guided_logits(model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, guidance: float) -> Tensor:
    """Logits [B, N, K], with classifier-free guidance unless it is 1."""
    if guidance == 1:
        return model(labels_B, codes_BN)
    none = torch.full_like(labels_B, model.num_classes)
    return guide(*model(torch.cat([labels_B, none]), codes_BN.repeat(2, 1)).chunk(2), guidance)
