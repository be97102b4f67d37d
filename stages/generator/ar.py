"""Autoregressive generation: one code after the other in raster order (DiGIT stage 1)."""

import torch
from torch import Tensor

from stages.core import UserError
from stages.core.hardware import compute
from stages.core.sampling import autoregressive_loss, autoregressive_nats, guide, sample_autoregressive
from stages.core.schemas import guidance_scales
from stages.core.transformer import Cache, for_sampling
from stages.generator.params import Sampling
from stages.generator.transformer import TokenTransformer, uniforms

CAUSAL = True
BOUND = "exact"
FILLS = "end"  # draws codes after known ones, not between them
loss, nats = autoregressive_loss, autoregressive_nats  # given the class, int64 [B]


def sample(model: TokenTransformer, labels_B: Tensor, sampling: Sampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the given classes; keys and values are cached. `first`: number of the first sample."""
    return _continue(model, labels_B, labels_B.new_empty(len(labels_B), 0), sampling, seed, first)


def fill(
    model: TokenTransformer, labels_B: Tensor, known_BN: Tensor, sampling: Sampling, seed: int, first: int = 0
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
    return _continue(model, labels_B, known_BN[:, :count], sampling, seed, first)


@torch.inference_mode()
def _continue(
    model: TokenTransformer, labels_B: Tensor, known_BP: Tensor, sampling: Sampling, seed: int, first: int
) -> Tensor:
    uniform_BN = uniforms(seed, first, len(labels_B), (model.num_patches,), labels_B.device)
    with compute(labels_B.device, sampling.precision):
        logits = NextLogits(model, labels_B, known_BP, sampling)
        filters = sampling.model_dump(exclude={"guidance", "precision"})
        return sample_autoregressive(logits, uniform_BN, known_BP=known_BP, **filters)


def halves_of(cache: Cache, batch: int) -> list[Cache]:
    """Views of the conditional and of the unconditional half."""
    return [[tuple(one[part] for one in own) for own in cache] for part in (slice(batch), slice(batch, None))]


class NextLogits:
    """Logits of the next code, int64 [B] and position -> [B, K], with guidance at each position.

    Where guidance is 1, only the conditional half of the batch runs. It never is again once it was another value, so
    the unconditional half catches up once, in one pass over all codes so far.
    """

    def __init__(self, model: TokenTransformer, labels_B: Tensor, known_BP: Tensor, sampling: Sampling):
        self.scales = guidance_scales(sampling.guidance if model.num_classes else 1.0, model.num_patches)
        halves = 2 if any(scale != 1 for scale in self.scales) else 1
        self.classes = torch.cat([labels_B, torch.full_like(labels_B, model.num_classes)][:halves])
        self.network, self.codes = for_sampling(model, len(self.classes)), [*known_BP.unbind(1)]
        whole, batch = self.network.new_cache(len(self.classes)), len(labels_B)
        self.caches = [whole, *halves_of(whole, batch)]
        self.batch, self.behind = batch, [True, True]  # of the conditional and the unconditional half

    def __call__(self, newest_B: Tensor | None, position: int) -> Tensor:
        if newest_B is not None and position > len(self.codes):
            self.codes.append(newest_B)
        scale = self.scales[position]
        halves = 1 if scale == 1 else 2
        for half in range(halves):
            self._catch_up(half, position)
        newest = self.classes[: halves * self.batch] if newest_B is None else newest_B.repeat(halves)
        logits = self.network.next_logits(newest, position, self.caches[1 if scale == 1 else 0])
        return logits if scale == 1 else guide(*logits.chunk(2), scale)

    def _catch_up(self, half: int, position: int) -> None:
        """Cache the class and all codes but the newest, which `next_logits` adds, the first time a half runs."""
        if self.behind[half] and position:
            classes = self.classes[half * self.batch :][: self.batch]
            before_BT = torch.stack([classes, *self.codes[: position - 1]], 1)
            self.network.fill_cache(before_BT, self.caches[1 + half])
        self.behind[half] = False
