"""Autoregressive generation: one code after the other in raster order (DiGIT stage 1)."""

import torch
from torch import Tensor

from stages.core import UserError
from stages.core.hardware import compute
from stages.core.sampling import autoregressive_loss, autoregressive_nats, guide, sample_autoregressive
from stages.core.transformer import Cache, for_sampling
from stages.generator.guidance import guidance_scales
from stages.generator.params import Sampling
from stages.generator.transformer import TokenTransformer, uniforms

CAUSAL = True
BOUND = "exact"
FILLS = "end"  # draws codes after known ones, not between them
loss, nats = autoregressive_loss, autoregressive_nats  # given the class, int64 [B], or the caption


def sample(model: TokenTransformer, given: Tensor, sampling: Sampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for classes or captions; keys and values are cached. `first`: number of the first sample."""
    return _continue(model, given, given.new_empty((len(given), 0), dtype=torch.int64), sampling, seed, first)


def fill(
    model: TokenTransformer, given: Tensor, known_BN: Tensor, sampling: Sampling, seed: int, first: int = 0
) -> Tensor:
    """int64 [B, N]: the known codes, and others drawn after them; `known_BN` int64, `num_codes` where unknown.

    `UserError` unless the known codes are the first ones, equally many in every row.
    """
    known = known_BN != model.num_codes
    count = int(known[0].sum())
    if not torch.equal(known, (torch.arange(model.num_patches, device=known.device) < count).expand_as(known)):
        raise UserError(
            "a generator of kind ar draws codes from the upper left to the lower right: it can only draw everything "
            "below some row of the image, not around known codes; use one of kind masked"
        )
    return _continue(model, given, known_BN[:, :count], sampling, seed, first)


@torch.inference_mode()
def _continue(
    model: TokenTransformer, given: Tensor, known_BP: Tensor, sampling: Sampling, seed: int, first: int
) -> Tensor:
    uniform_BN = uniforms(seed, first, len(given), (model.num_patches,), given.device)
    with compute(given.device, sampling.precision):
        logits = NextLogits(model, given, sampling)
        filters = sampling.model_dump(exclude={"guidance", "precision"})
        return sample_autoregressive(logits, uniform_BN, known_BP=known_BP, **filters)


def halves_of(cache: Cache, batch: int) -> list[Cache]:
    """Views of the conditional and of the unconditional half."""
    return [[tuple(one[part] for one in own) for own in cache] for part in (slice(batch), slice(batch, None))]


class NextLogits:
    """Logits of the next code, codes before it int64 [B, position] -> [B, K], with guidance at each position.

    Where guidance is 1, only the conditional half of the batch runs. It never is again once it was another value, so
    the unconditional half catches up once, in one pass over all codes so far.
    """

    def __init__(self, model: TokenTransformer, given: Tensor, sampling: Sampling):
        self.scales = guidance_scales(sampling.guidance if model.is_conditional else 1.0, model.num_patches)
        halves = 2 if any(scale != 1 for scale in self.scales) else 1
        self.given = torch.cat([given, model.null(len(given))][:halves])
        self.network = for_sampling(model, len(self.given))
        whole, batch = self.network.new_cache(len(self.given)), len(given)
        self.caches = [whole, *halves_of(whole, batch)]
        self.batch, self.behind = batch, [True, True]  # of the conditional and the unconditional half

    def __call__(self, codes_BT: Tensor) -> Tensor:
        position = codes_BT.shape[1]
        scale = self.scales[position]
        halves = 1 if scale == 1 else 2
        for half in range(halves):
            self._catch_up(half, codes_BT)
        newest = codes_BT[:, -1].repeat(halves) if position else self.given[: halves * self.batch]
        logits = self.network.next_logits(newest, position, self.caches[1 if scale == 1 else 0])
        return logits if scale == 1 else guide(*logits.chunk(2), scale)

    def _catch_up(self, half: int, codes_BT: Tensor) -> None:
        """Cache what is given and all codes but the newest, which `next_logits` adds, the first time a half runs."""
        if self.behind[half] and codes_BT.shape[1]:
            given = self.given[half * self.batch :][: self.batch]
            self.network.fill_cache(given, codes_BT[:, :-1], self.caches[1 + half])
        self.behind[half] = False
