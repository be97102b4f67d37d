"""Autoregressive generation: one code after the other in raster order (DiGIT stage 1)."""

import torch
from torch import Tensor

from stages.core.hardware import compute
from stages.core.sampling import autoregressive_loss, autoregressive_nats, guide, sample_autoregressive
from stages.core.transformer import for_sampling
from stages.generator.params import Sampling
from stages.generator.transformer import TokenTransformer, uniforms

CAUSAL = True
BOUND = "exact"
loss, nats = autoregressive_loss, autoregressive_nats  # given the class, int64 [B]


@torch.inference_mode()
def sample(model: TokenTransformer, labels_B: Tensor, sampling: Sampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the given classes; keys and values are cached. `first`: number of the first sample."""
    uniform_BN = uniforms(seed, first, len(labels_B), (model.num_patches,), labels_B.device)
    guided = sampling.guidance != 1 and model.num_classes > 0
    classes = torch.cat([labels_B, torch.full_like(labels_B, model.num_classes)]) if guided else labels_B
    with compute(labels_B.device, sampling.precision):
        network = for_sampling(model, len(classes))
        cache = network.new_cache(len(classes))

        def next_logits(newest_B: Tensor | None, position: int) -> Tensor:
            newest = classes if newest_B is None else torch.cat([newest_B] * 2) if guided else newest_B
            logits = network.next_logits(newest, position, cache)
            return guide(*logits.chunk(2), sampling.guidance) if guided else logits

        return sample_autoregressive(next_logits, uniform_BN, **sampling.model_dump(exclude={"guidance", "precision"}))
