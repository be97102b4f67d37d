"""Masked generation (MaskGIT, Chang et al. 2022; the variant of DiGIT stage 2): all codes at once, in a few steps."""

import torch
from torch import Tensor

from stages.core.hardware import compute
from stages.core.sampling import Watch, guide, masked_loss, masked_nats, sample_maskgit, unwatched
from stages.core.transformer import for_sampling
from stages.generator.guidance import guidance_scales
from stages.generator.params import MaskedSampling
from stages.generator.transformer import TokenTransformer, nothing_known, uniforms

CAUSAL = False
BOUND = "upper"
FILLS = "any"  # draws codes at any positions around known ones
loss, nats = masked_loss, masked_nats  # given the class, int64 [B], or the caption


def sample(
    model: TokenTransformer, given: Tensor, sampling: MaskedSampling, seed: int, first: int = 0,
    watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N] codes for classes or captions. `first`: number of the first sample."""
    return fill(model, given, nothing_known(model, len(given)), sampling, seed, first, watch)


@torch.inference_mode()
def fill(
    model: TokenTransformer, given: Tensor, known_BN: Tensor, sampling: MaskedSampling, seed: int, first: int = 0,
    watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N]: the known codes, and others drawn around them; `known_BN` int64, `num_codes` where unknown."""
    shape = (sampling.steps, 2, model.num_patches)
    uniform = uniforms(seed, first, len(given), shape, given.device)
    scales = iter(guidance_scales(sampling.guidance, sampling.steps))
    settings = sampling.model_dump(exclude={"guidance", "steps", "precision"})
    with compute(given.device, sampling.precision):
        network = for_sampling(model, len(given) * model.num_patches)
        return sample_maskgit(
            lambda codes, at: guided_logits(network, given, codes, at, next(scales)),
            uniform, num_codes=model.num_codes, known_BN=known_BN, watch=watch, **settings,
        )  # fmt: skip


def guided_logits(model: TokenTransformer, given: Tensor, codes_BN: Tensor, at_BN: Tensor, guidance: float) -> Tensor:
    """Logits [M, K] at the M true positions of `at`; guided if something is given and `guidance` is not 1."""
    if guidance == 1 or not model.is_conditional:
        return model(given, codes_BN, at_BN)
    both = torch.cat([given, model.null(len(given))])
    return guide(*model(both, codes_BN.repeat(2, 1), at_BN.repeat(2, 1)).chunk(2), guidance)
