"""Masked generation (MaskGIT, Chang et al. 2022; the variant of DiGIT stage 2): all codes at once, in a few steps."""

import torch
from torch import Tensor

from stages.core.hardware import compute
from stages.core.sampling import guide, masked_loss, masked_nats, sample_maskgit
from stages.core.schemas import guidance_scales
from stages.core.transformer import for_sampling
from stages.generator.params import MaskedSampling
from stages.generator.transformer import TokenTransformer, uniforms

CAUSAL = False
BOUND = "upper"
FILLS = "any"  # draws codes at any positions around known ones
loss, nats = masked_loss, masked_nats  # given the class, int64 [B]


def sample(model: TokenTransformer, labels_B: Tensor, sampling: MaskedSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the given classes. `first`: number of the first sample."""
    nothing = torch.full((len(labels_B), model.num_patches), model.num_codes, device=labels_B.device)
    return fill(model, labels_B, nothing, sampling, seed, first)


@torch.inference_mode()
def fill(
    model: TokenTransformer, labels_B: Tensor, known_BN: Tensor, sampling: MaskedSampling, seed: int, first: int = 0
) -> Tensor:
    """int64 [B, N]: the known codes, and others drawn around them; `known_BN` int64, `num_codes` where unknown."""
    shape = (sampling.steps, 2, model.num_patches)
    uniform = uniforms(seed, first, len(labels_B), shape, labels_B.device)
    scales = iter(guidance_scales(sampling.guidance, sampling.steps))
    settings = sampling.model_dump(exclude={"guidance", "steps", "precision"})
    with compute(labels_B.device, sampling.precision):
        network = for_sampling(model, len(labels_B) * model.num_patches)
        return sample_maskgit(
            lambda codes, at: guided_logits(network, labels_B, codes, at, next(scales)),
            uniform, num_codes=model.num_codes, known_BN=known_BN, **settings,
        )  # fmt: skip


def guided_logits(
    model: TokenTransformer, labels_B: Tensor, codes_BN: Tensor, at_BN: Tensor, guidance: float
) -> Tensor:
    """Logits [M, K] at the M true positions of `at`; guided if there are classes and `guidance` is not 1."""
    if guidance == 1 or not model.num_classes:
        return model(labels_B, codes_BN, at_BN)
    none = torch.full_like(labels_B, model.num_classes)
    return guide(*model(torch.cat([labels_B, none]), codes_BN.repeat(2, 1), at_BN.repeat(2, 1)).chunk(2), guidance)
