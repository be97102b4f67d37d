"""Parallel autoregressive generation: codes in a random order, several per step (RandAR, ARPG, LPD; 2024 to 2025).

A step draws a group of codes, each given all earlier groups and none given another of its own group. One code per step
is exact sampling; larger groups are faster and neglect what their codes tell about each other. Groups grow, since the
more is known the less the others depend on each other.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.distributed import num_shares, share_of
from stages.core.hardware import compute
from stages.core.sampling import Watch, draw_from, guide, masked_share, unwatched
from stages.core.schemas import MaskSchedule
from stages.core.transformer import for_sampling
from stages.generator.guidance import guidance_scales
from stages.generator.params import ParallelSampling
from stages.generator.random_order import RandomOrderTransformer
from stages.generator.transformer import nothing_known, uniforms

CAUSAL = True
BOUND = "upper"  # -ln p of a drawn order; its mean over orders is at least -ln of the mean of p, which is the model's
FILLS = "any"  # draws codes at any places around known ones


def network(*, causal: bool, local: int, **shape: Any) -> RandomOrderTransformer:
    """The network of a shape of `TokenTransformer`; without local mixing, which takes a fixed order for granted."""
    return RandomOrderTransformer(**shape)


def random_orders(rows: int, num_patches: int, rng: torch.Generator) -> Tensor:
    """int64 [rows, N]: permutations of the places, uniformly drawn."""
    return torch.rand(rows, num_patches, generator=rng).argsort(1)


def loss(
    model: RandomOrderTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of every code given those before it in a random order per image, in nats.

    The orders are those of the whole batch, whatever the number of processes.
    """
    whole = random_orders(len(codes_BN) * num_shares(), codes_BN.shape[1], rng)
    order_BN = share_of(whole).to(codes_BN.device)
    logits, targets = model(labels_B, codes_BN, order_BN).flatten(0, 1), codes_BN.gather(1, order_BN).flatten()
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def nats(model: RandomOrderTransformer, labels_B: Tensor, codes_BN: Tensor, rng: torch.Generator) -> Tensor:
    """float [B], nats: -ln p(codes | class, order) per image, exact for the random order that is drawn."""
    order_BN = random_orders(*codes_BN.shape, rng).to(codes_BN.device)
    logits_BNK, targets_BN = model(labels_B, codes_BN, order_BN), codes_BN.gather(1, order_BN)
    return F.cross_entropy(logits_BNK.transpose(1, 2), targets_BN, reduction="none").sum(1)


def group_sizes(count: int, steps: int, schedule: MaskSchedule) -> list[int]:
    """How many of `count` codes each step draws: 1 or more, in all `count`; fewer steps if there are fewer codes.

    Left is after each step what `masked_share` says (arccos: ARPG, cosine: RandAR), and at least one less than before.
    """
    steps, sizes, left = min(steps, count), [], count
    for done in range(1, steps + 1):
        wanted = math.floor(count * masked_share(done / steps, schedule) + 1e-9)  # whole numbers stay
        after = 0 if done == steps else min(left - 1, wanted)
        sizes.append(left - after)
        left = after
    return sizes


def sample(
    model: RandomOrderTransformer, labels_B: Tensor, sampling: ParallelSampling, seed: int, first: int = 0,
    watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N] codes for the given classes. `first`: number of the first sample."""
    return fill(model, labels_B, nothing_known(model, len(labels_B)), sampling, seed, first, watch)


@torch.inference_mode()
def fill(
    model: RandomOrderTransformer, labels_B: Tensor, known_BN: Tensor, sampling: ParallelSampling, seed: int,
    first: int = 0, watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N]: the known codes, and others drawn around them; `known_BN` int64, `num_codes` where unknown.

    Rows with equally many known codes are drawn together, and watched by themselves. Known codes come first in the
    order.
    """
    uniform = uniforms(seed, first, len(labels_B), (2, model.num_patches), labels_B.device)
    known, codes = known_BN != model.num_codes, known_BN.clone()
    order, counts = (uniform[:, 0] - known.float()).argsort(stable=True, dim=1), known.sum(1)
    with compute(labels_B.device, sampling.precision):
        network = for_sampling(model, len(labels_B) * max(1, 2 * model.num_patches // sampling.steps))
        for count in counts.unique().tolist():
            rows = counts == count
            given = (labels_B[rows], codes[rows], order[rows], uniform[rows, 1])
            codes[rows] = draw_groups(network, *given, count, sampling, watch)
    return codes


def draw_groups(
    network: RandomOrderTransformer, labels_B: Tensor, codes_BN: Tensor, order_BN: Tensor, uniform_BN: Tensor,
    known: int, sampling: ParallelSampling, watch: Watch = unwatched,
) -> Tensor:  # fmt: skip
    """int64 [B, N]: draws all codes but the first `known` of the order, group by group, by inversion of uniforms."""
    scales = guidance_scales(sampling.guidance if network.num_classes else 1.0, network.num_patches)
    guided = any(scale != 1 for scale in scales[known:])
    labels = torch.cat([labels_B, torch.full_like(labels_B, network.num_classes)]) if guided else labels_B
    cache, held, start, end = network.new_cache(len(labels)), order_BN[:, :known], 0, known
    filters = sampling.model_dump(include={"temperature", "top_k", "top_p"})
    for size in group_sizes(network.num_patches - known, sampling.steps, sampling.schedule):
        begin, end = end, end + size
        asked = order_BN[:, begin:end]
        given = (each.repeat(2, 1) if guided else each for each in (codes_BN.gather(1, held), held, asked))
        logits = network.next_logits(labels, *given, cache, start)
        logits = guide(*logits.chunk(2), scales[begin]) if guided else logits
        codes_BN.scatter_(1, asked, draw_from(logits, uniform_BN.gather(1, asked), **filters)[0])
        del logits  # as large as all the network computes
        watch(codes_BN)
        held, start = asked, 1 + begin
    return codes_BN
