"""Losses, likelihoods and sampling of transformers over codes.

Autoregressive: model(given [B, ...], codes [B, N]) -> logits float32 [B, N, K]; logits of position t depend on `given`
and on codes before t alone.

Masked (MaskGIT, Chang et al. 2022; DiGIT's stage 2): model(given [B, ...], codes [B, N], at bool [B, N]) -> logits
float32 [M, K] of the M positions where `at` is true, row-major; it has `num_codes` (K, also the code "masked") and
`num_patches` (N).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.distributed import num_shares, share_of
from stages.core.schemas import MaskRatio, MaskSchedule

MAGE_RATIO, MAGE_SPREAD, MAGE_LEAST = 0.55, 0.25, 0.5  # mean and deviation of a normal distribution, cut off below

Watch = Callable[[Tensor], object]  # is shown int64 [B, N] after each step of drawing, `num_codes` where nothing is yet


def unwatched(codes_BN: Tensor) -> None:
    """Nobody looks on while codes are drawn."""


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 - a) u + a c; a = 1 is conditional, a = 0 unconditional."""
    return (1 - guidance) * unconditional + guidance * conditional


def probabilities(logits: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """float [..., K] -> probabilities after temperature, then top-k (0: off), then top-p (1: off).

    top-k keeps exactly k codes, top-p the smallest set of likeliest codes whose mass reaches p, at least one;
    among equals the lower code counts as likelier.
    """
    if not top_k and top_p == 1:
        return (logits / temperature).softmax(-1)
    ordered, order = descending(logits / temperature)
    ranks = torch.arange(ordered.shape[-1], device=logits.device)
    if top_k:
        ordered = ordered.masked_fill(ranks >= top_k, -torch.inf)
    share = ordered.softmax(-1)
    before = share.cumsum(-1) - share
    kept = share.masked_fill((before >= top_p) & (ranks > 0), 0)
    return torch.zeros_like(kept).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def descending(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted logits, float [..., K], and their codes, int64 [..., K]; among equals the lower code comes first.

    On a CPU torch's sort takes four times as long as NumPy's, which sorts one integer made of logit and code.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return torch.sort(logits, dim=-1, descending=True, stable=True)
    bits = (logits + 0.0).view(torch.int32)  # -0 becomes 0
    ascending = (bits ^ (bits >> 31 & 0x7FFFFFFF)).long()  # in the order of the floats
    keys = (~ascending << 32) + torch.arange(logits.shape[-1])
    order = torch.from_numpy(np.sort(keys.numpy())) & 0xFFFFFFFF
    return logits.gather(-1, order), order


def draw(share: Tensor, uniform: Tensor) -> Tensor:
    """Probabilities [..., K], uniforms in [0, 1) [...] -> int64 [...], by inversion; never a code of probability 0."""
    cumulative = share.cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    codes = torch.searchsorted(cumulative, threshold, right=True)[..., 0]
    # Rounding may put the threshold at the total: take the first code whose cumulative sum reaches it.
    return torch.minimum(codes, torch.searchsorted(cumulative, cumulative[..., -1:].contiguous())[..., 0])


def draw_from(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """Logits [..., K], uniforms [...] -> codes int64 [...] and their log-probabilities, float [...].

    The probabilities, as large as the logits, are gone when the network runs again.
    """
    share = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    codes = draw(share, uniform)
    return codes, share.gather(-1, codes[..., None])[..., 0].log()


def autoregressive_loss(
    model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of every code given the codes before it, in nats."""
    return F.cross_entropy(model(given, codes_BN).flatten(0, 1), codes_BN.flatten(), label_smoothing=label_smoothing)


def autoregressive_nats(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """float [B], nats: -ln p(codes | given) per image, exact."""
    logits_BNK = model(given, codes_BN)
    return F.cross_entropy(logits_BNK.flatten(0, 1), codes_BN.flatten(), reduction="none").view_as(codes_BN).sum(1)


def sample_autoregressive(
    next_logits: Callable[[Tensor], Tensor], uniform_BN: Tensor, *, known_BP: Tensor | None = None, **filters: Any
) -> Tensor:
    """int64 [B, N] by inversion of uniforms; next_logits(codes before, int64 [B, position]) -> logits [B, K].

    The first P codes are `known_BP`, if given; `filters` are those of `probabilities`. All codes stand in one block of
    memory: a new one per step would lie between buffers that grow from step to step, and keep them from being reused.
    """
    known = 0 if known_BP is None else known_BP.shape[1]
    codes = torch.zeros(uniform_BN.shape, dtype=torch.int64, device=uniform_BN.device)
    if known_BP is not None:
        codes[:, :known] = known_BP
    for position in range(known, uniform_BN.shape[1]):
        share = probabilities(next_logits(codes[:, :position]), **filters)
        codes[:, position] = draw(share, uniform_BN[:, position])
    return codes


def training_counts(uniform_B: Tensor, num_patches: int, mask_ratio: MaskRatio) -> Tensor:
    """How many positions to mask in training, int64 [B] from uniforms: 1 … N.

    cosine: floor(N cos(u π/2) + 1), on average about 2/π of N (MaskGIT). truncated-normal: a share from N(.55, .25²)
    between .5 and 1, on average .69, rounded up (MAGE, Li et al. 2023): fewer than half are never masked.
    """
    if mask_ratio == "truncated-normal":
        below, above = (normal_share((end - MAGE_RATIO) / MAGE_SPREAD) for end in (MAGE_LEAST, 1.0))
        ratio = MAGE_RATIO + MAGE_SPREAD * torch.special.ndtri((below + uniform_B * (above - below)).double())
        return (num_patches * ratio).ceil().long().clamp(1, num_patches)
    return (num_patches * (uniform_B * math.pi / 2).cos() + 1).floor().long().clamp(1, num_patches)


def normal_share(value: float) -> float:
    """The share of a standard normal distribution below `value`."""
    return (1 + math.erf(value / math.sqrt(2))) / 2


def masked_share(done: float, schedule: MaskSchedule) -> float:
    """The share of codes that is masked after a share r of the steps.

    cos(r π/2) (cosine, MaskGIT), 1 - r (linear) or arccos(r) 2/π (arccos, as ARPG).
    """
    if schedule == "linear":
        return 1 - done
    return math.cos(math.pi / 2 * done) if schedule == "cosine" else math.acos(done) / (math.pi / 2)


def still_masked(step: int, steps: int, masked_before: int, num_patches: int, schedule: MaskSchedule) -> int:
    """Number of masked positions after `step` (from 0): that share of N, rounded down; falling, at least 1; at last 0.

    With more steps than positions, some steps only draw a single code again.
    """
    if step == steps - 1 or not masked_before:
        return 0
    wanted = math.floor(num_patches * masked_share((step + 1) / steps, schedule) + 1e-9)  # whole numbers stay
    return max(1, min(masked_before - 1, wanted))


def masked_counts(num_patches: int, steps: int, schedule: MaskSchedule) -> list[int]:
    """Masked positions after each step, from `num_patches` before the first."""
    counts = [num_patches]
    for step in range(steps):
        counts.append(still_masked(step, steps, counts[-1], num_patches, schedule))
    return counts[1:]


def random_mask(counts_B: Tensor, num_patches: int, rng: torch.Generator) -> Tensor:
    """bool [B, N] with exactly counts_B true entries per row, at random positions."""
    ranks = torch.rand(len(counts_B), num_patches, generator=rng).argsort(1).argsort(1)
    return ranks < counts_B.cpu()[:, None]


def masked_loss(
    model: Any,
    given: Tensor,
    codes_BN: Tensor,
    rng: torch.Generator,
    label_smoothing: float,
    mask_ratio: MaskRatio = "cosine",
) -> Tensor:
    """Mean cross-entropy of the masked codes given the others, in nats.

    The masks are those of the whole batch. Processes differ in how many codes they mask and are weighted by it, so that
    the mean over processes is the mean over all masked codes.
    """
    counts = training_counts(torch.rand(len(codes_BN) * num_shares(), generator=rng), model.num_patches, mask_ratio)
    whole = random_mask(counts, model.num_patches, rng)
    weight = int(share_of(whole).sum()) * num_shares() / int(whole.sum())
    mask_BN = share_of(whole).to(codes_BN.device)
    logits_MK = model(given, codes_BN.masked_fill(mask_BN, model.num_codes), mask_BN)
    return weight * F.cross_entropy(logits_MK, codes_BN[mask_BN], label_smoothing=label_smoothing)


def masked_nats(model: Any, given: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """float [B], nats: an unbiased estimate of the random-order bound, which is at least -ln p(codes | given).

    With m masked positions, m uniform in 1 … N: N / m times the summed cross-entropy of the masked codes
    (order-agnostic models, Uria et al. 2014; Hoogeboom et al. 2022, eq. 5).
    """
    counts = torch.randint(1, model.num_patches + 1, (len(codes_BN),), generator=rng)
    mask_BN = random_mask(counts, model.num_patches, rng).to(codes_BN.device)
    logits_MK = model(given, codes_BN.masked_fill(mask_BN, model.num_codes), mask_BN)
    each = logits_MK.new_zeros(codes_BN.shape)
    each[mask_BN] = F.cross_entropy(logits_MK, codes_BN[mask_BN], reduction="none")
    return each.sum(1) * model.num_patches / counts.to(each.device)


def sample_maskgit(
    logits_of: Callable[[Tensor, Tensor], Tensor],
    uniform: Tensor,
    *,
    num_codes: int,
    choice_temperature: float,
    mask_schedule: MaskSchedule = "cosine",
    known_BN: Tensor | None = None,
    watch: Watch = unwatched,
    **filters: Any,
) -> Tensor:
    """int64 [B, N] from uniforms [B, T, 2, N].

    logits_of(codes [B, N], `num_codes` where masked; bool [B, N], where that is) -> [M, K] of the M masked positions.

    Each of the T steps fills all masked positions and keeps those of highest confidence,
    log p + choice_temperature * (1 - (t+1)/T) * Gumbel; a code once kept is never masked again. With `known_BN`, int64
    [B, N], it begins with these codes, `num_codes` where unknown; the schedule is that of a row's unknown codes.
    `watch` is given the codes after each step, `num_codes` where masked; `filters` are those of `draw_from`.
    """
    batch, steps, _, num_patches = uniform.shape
    masked = torch.full((batch, num_patches), num_codes, device=uniform.device)
    codes = masked if known_BN is None else known_BN.clone()
    counts_BT = counts_of(codes == num_codes, steps, mask_schedule)
    for step in range(steps):
        unknown = codes == num_codes
        codes[unknown], log_share = draw_from(logits_of(codes, unknown), uniform[:, step, 0][unknown], **filters)
        gumbel = -(-uniform[:, step, 1][unknown].clamp(1e-9, 1 - 1e-7).log()).log()
        confidence = torch.full(codes.shape, torch.inf, device=codes.device)
        confidence[unknown] = log_share + choice_temperature * (1 - (step + 1) / steps) * gumbel
        surest_last, counts_B = confidence.argsort(stable=True, dim=1), counts_BT[:, step]
        again = torch.arange(num_patches, device=codes.device) < counts_B[:, None]
        codes.scatter_(1, surest_last, codes.gather(1, surest_last).masked_fill(again, num_codes))
        watch(codes)
    return codes


def counts_of(unknown_BN: Tensor, steps: int, schedule: MaskSchedule) -> Tensor:
    """int64 [B, T]: how many positions of each row are masked after each step."""
    rows = [masked_counts(count, steps, schedule) for count in unknown_BN.sum(1).tolist()]
    return torch.tensor(rows, device=unknown_BN.device)
