"""Autoregressive generation: one code after the other in raster order (DiGIT stage 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core import causal
from stages.core.filters import guide
from stages.generator.model import TokenTransformer
from stages.generator.noise import noise
from stages.generator.settings import ArSampling

BOUND = "exact"
loss, nats = causal.loss, causal.nats  # given the class, int64 [B]


@torch.inference_mode()
def sample(model: TokenTransformer, labels_B: Tensor, settings: ArSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the classes asked for; keys and values are cached. `first`: number of the first sample."""
    uniform_BN = noise(seed, first, len(labels_B), (model.num_patches,), labels_B.device)
    guided = settings.guidance != 1 and model.num_classes > 0
    classes = torch.cat([labels_B, torch.full_like(labels_B, model.num_classes)]) if guided else labels_B
    cache = model.new_cache(len(classes))

    def next_logits(newest_B: Tensor | None, position: int) -> Tensor:
        newest = classes if newest_B is None else torch.cat([newest_B] * 2) if guided else newest_B
        logits = model.next_logits(newest, position, cache)
        return guide(*logits.chunk(2), settings.guidance) if guided else logits

    filters = settings.model_dump(exclude={"guidance"})
    return causal.draw_in_order(next_logits, uniform_BN, **filters)
