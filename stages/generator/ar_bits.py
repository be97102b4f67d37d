"""Autoregressive generation with a masked-bit head (BAR, Yu et al. 2026): each code's bits in a few steps.

For large vocabularies: logits are 2 log2 K instead of K. The control is kind `ar` with the same codes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core import UserError
from stages.core.distributed import num_shares, share_of
from stages.core.hardware import compute
from stages.core.sampling import draw, guide, probabilities
from stages.core.transformer import for_sampling
from stages.generator.bit_head import MASKED, BitTransformer, bits_of, codes_of
from stages.generator.guidance import guidance_scales
from stages.generator.params import BitSampling
from stages.generator.transformer import uniforms

CAUSAL = True
BOUND = "upper"  # the mean over random orders of the bits
SPREAD = 0.8  # of the normal distribution behind the share of masked bits in training
VISIBLE_WEIGHT = 0.1  # in the loss, of a bit that is not masked

network = BitTransformer


def random_bit_masks(counts: Tensor, bits: int, rng: torch.Generator) -> Tensor:
    """bool [..., b] with exactly counts [...] true entries per code."""
    return torch.rand(*counts.shape, bits, generator=rng).argsort(-1).argsort(-1) < counts[..., None]


def training_masks(rows: int, num_patches: int, bits: int, rng: torch.Generator) -> Tensor:
    """bool [rows, N, b]: per code a share 1 - sigmoid(N(0, .8²)) of the bits, rounded, at least one."""
    share = 1 - (SPREAD * torch.randn(rows, num_patches, generator=rng)).sigmoid()
    return random_bit_masks((bits * share).round().clamp(1, bits), bits, rng)


def loss(model: Any, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of the bits, in nats; a masked one weighs 1, a visible one .1.

    The masks are those of the whole batch, and so is the sum of weights, whatever the number of processes.
    """
    whole = training_masks(len(codes_BN) * num_shares(), codes_BN.shape[1], model.bits, rng)
    mask, bits = share_of(whole).to(codes_BN.device), bits_of(codes_BN, model.bits)
    logits = model(labels_B, codes_BN, bits.masked_fill(mask, MASKED))
    each = F.cross_entropy(logits.flatten(0, 2), bits.flatten(), reduction="none", label_smoothing=label_smoothing)
    weights = torch.where(mask, 1.0, VISIBLE_WEIGHT).flatten()
    total = whole.sum() + VISIBLE_WEIGHT * (~whole).sum()
    return (weights * each).sum() * num_shares() / total.to(each.device)


def nats(model: BitTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """float [B], nats: an unbiased estimate of the mean over orders of the bits, at least -ln p(codes | class).

    Per code m bits are masked, m uniform in 1 … b: b / m times their summed cross-entropy, as in `masked_nats`.
    """
    counts = torch.randint(1, model.bits + 1, codes_BN.shape, generator=rng)
    mask, bits = random_bit_masks(counts, model.bits, rng).to(codes_BN.device), bits_of(codes_BN, model.bits)
    given = bits.masked_fill(mask, MASKED)
    logits = model.possible(model(labels_B, codes_BN, given), given)
    each = -logits.log_softmax(-1).gather(-1, bits[..., None])[..., 0]
    return ((each * mask).sum(-1) * model.bits / counts.to(each.device)).sum(1)


def allocation(bits: int, bit_steps: int | list[int]) -> list[int]:
    """How many bits each step sets: of a number of steps near-even and not falling; `UserError` for another sum."""
    if isinstance(bit_steps, int):
        steps = min(bit_steps, bits)
        return sorted(bits * (step + 1) // steps - bits * step // steps for step in range(steps))
    if sum(bit_steps) != bits:
        raise UserError(f"bit_steps = {bit_steps}: its sum is {sum(bit_steps)}, but these codes have {bits} bits")
    return bit_steps


@torch.inference_mode()
def sample(model: BitTransformer, labels_B: Tensor, sampling: BitSampling, seed: int, first: int = 0) -> Tensor:
    """int64 [B, N] codes for the given classes; keys and values are cached. `first`: number of the first sample."""
    uniform_BNb = uniforms(seed, first, len(labels_B), (model.num_patches, model.bits), labels_B.device)
    scales = guidance_scales(sampling.guidance if model.num_classes else 1.0, model.num_patches)
    guided = any(scale != 1 for scale in scales)
    classes = torch.cat([labels_B, torch.full_like(labels_B, model.num_classes)]) if guided else labels_B
    codes_BN, newest = torch.zeros(uniform_BNb.shape[:2], dtype=torch.int64, device=labels_B.device), classes
    with compute(labels_B.device, sampling.precision):
        network = for_sampling(model, len(classes))
        cache = network.states.new_cache(len(classes))
        for position in range(model.num_patches):
            states = network.states.next_logits(newest, position, cache)
            drawn = draw_codes(network, states, uniform_BNb[:, position], sampling, scales[position])
            codes_BN[:, position], newest = drawn, drawn.repeat(2) if guided else drawn
    return codes_BN


def draw_codes(
    network: BitTransformer, states: Tensor, uniform_Bb: Tensor, sampling: BitSampling, guidance: float
) -> Tensor:
    """int64 [B]: a code per image; states float [B, D], or [2 B, D] if guided.

    A step sets the bits whose likelier value is the surest, to a value drawn from its probabilities. The choice does
    not depend on what is drawn; so with one bit per step a code is drawn from the model's own distribution.
    """
    bits, copies = torch.full(uniform_Bb.shape, MASKED, device=states.device), len(states) // len(uniform_Bb)
    for count in allocation(network.bits, sampling.bit_steps):
        logits = network.bit_head(states, bits.repeat(copies, 1))
        logits = guide(*logits.chunk(2), guidance) if copies == 2 else logits
        share = probabilities(
            network.possible(logits, bits),
            temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p,
        )  # fmt: skip
        sure = share.amax(-1).masked_fill(bits != MASKED, -1)
        set_bits(bits, sure.argsort(stable=True, dim=-1, descending=True)[:, :count], draw(share, uniform_Bb), network)
    return codes_of(bits)


def set_bits(bits_Bb: Tensor, chosen_BM: Tensor, drawn_Bb: Tensor, network: BitTransformer) -> None:
    """Set the chosen bits one after the other; a 1 that would give no code below `num_codes` becomes 0."""
    for chosen in chosen_BM.split(1, 1):
        beyond = codes_of(bits_Bb)[:, None] + (1 << chosen) >= network.num_codes
        bits_Bb.scatter_(1, chosen, drawn_Bb.gather(1, chosen).masked_fill(beyond, 0))
