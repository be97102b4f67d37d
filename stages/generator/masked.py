"""Masked generation (MaskGIT, Chang et al. 2022; the variant of DiGIT stage 2): all codes at once, in a few steps."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core import masking
from stages.core.filters import guide
from stages.generator.model import TokenTransformer
from stages.generator.noise import noise
from stages.generator.settings import MaskedSampling

BOUND = "upper"
loss, nats = masking.loss, masking.nats  # given the class, int64 [B]


@torch.inference_mode()
def sample(model: TokenTransformer, labels_B: Tensor, settings: MaskedSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the classes asked for. `first`: number of the first sample."""
    shape = (settings.steps, 2, model.num_patches)
    uniform = noise(seed, first, len(labels_B), shape, labels_B.device)
    filters = settings.model_dump(exclude={"guidance", "steps"})
    return masking.draw_by_steps(
        lambda codes, at: guided_logits(model, labels_B, codes, at, settings.guidance),
        uniform, num_codes=model.num_codes, **filters,
    )  # fmt: skip


def guided_logits(
    model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, at_BN: Tensor, guidance: float
) -> Tensor:
    """Logits of the M true positions of `at`, [M, K]; guided by the class if there are any, and by `guidance` not 1."""
    if guidance == 1 or not model.num_classes:
        return model(labels_B, codes_BN, at_BN)
    none = torch.full_like(labels_B, model.num_classes)
    return guide(*model(torch.cat([labels_B, none]), codes_BN.repeat(2, 1), at_BN.repeat(2, 1)).chunk(2), guidance)
