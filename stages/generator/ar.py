"""Autoregressive generation: one code after the other in raster order (DiGIT stage 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.generator.filters import draw, guide, noise, probabilities
from stages.generator.model import TokenTransformer
from stages.generator.settings import ArSampling

BOUND = "exact"


def loss(
    model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of every code given the class and the codes before it, in nats."""
    return F.cross_entropy(model(labels_B, codes_BN).flatten(0, 1), codes_BN.flatten(), label_smoothing=label_smoothing)


def nats(model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """-ln p(codes | class) of each image, float [B]: exact."""
    logits = model(labels_B, codes_BN)
    return F.cross_entropy(logits.transpose(1, 2), codes_BN, reduction="none").sum(1)


@torch.inference_mode()
def sample(model: TokenTransformer, labels_B: Tensor, settings: ArSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the classes asked for; keys and values are cached. `first`: number of the first sample."""
    uniform_BN = noise(seed, first, len(labels_B), (model.num_patches,), labels_B.device)
    guided = settings.guidance != 1
    newest = torch.cat([labels_B, torch.full_like(labels_B, model.num_classes)]) if guided else labels_B
    cache, codes = model.new_cache(len(newest)), []
    for position in range(model.num_patches):
        logits = model.next_logits(newest, position, cache)
        if guided:
            logits = guide(*logits.chunk(2), settings.guidance)
        share = probabilities(logits, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
        codes.append(draw(share, uniform_BN[:, position]))
        newest = torch.cat([codes[-1]] * 2) if guided else codes[-1]
    return torch.stack(codes, 1)
