"""Floating-point operations of sampling, and of generators that alternate between codes and images.

They are counted as in stages/cost_networks.py.
"""

from functools import partial

import torch
from torch.nn import functional as F

from stages.core.transformer import run
from stages.cost_captions import given_to
from stages.cost_networks import PASSES, Codes, Networks, ints
from stages.decoder import params as decoder
from stages.decoder.training import widths_from
from stages.generator.addp import still_masked
from stages.generator.addp_masks import level_probabilities, masked_counts
from stages.generator.addp_network import AddpNetwork, shape_of
from stages.generator.alternating_params import (
    ALTERNATING,
    SIZES,
    Alternating,
    kind_at,
    load_alternating,
    load_sampling,
)  # fmt: skip
from stages.generator.ar_bits import allocation
from stages.generator.bit_head import BitTransformer
from stages.generator.params import BitSampling, MaskedSampling


def step_flops(networks: Networks, codes: Codes, name: str, classes: int) -> int:
    """Of a training step per image: the trained networks, two passes of the predictor, a picture."""
    section = load_alternating(name, networks.params)
    masked = int((level_probabilities() * masked_counts(codes.count)).sum())
    trained = look_flops(networks, codes, section, classes) + draw_flops(networks, codes, section, classes, masked)
    frozen = 2 * networks.generator_flops(codes, section.predictor, classes)
    return PASSES * trained + frozen + picture_flops(networks, codes, section, masked)


def sample_flops(networks: Networks, codes: Codes, name: str, classes: int) -> int:
    """Of a sample by a generator of any kind: all its steps, twice with guidance."""
    kind = kind_at(name, networks.params)
    sampling = load_sampling(name, kind, networks.params)
    steps = sampling.steps if isinstance(sampling, MaskedSampling) else None
    given = classes if kind in ALTERNATING else any(given_to(name, classes, networks.params).values())
    passes = sampling.guidance_cost(steps or codes.count) if given else 1
    if kind in ALTERNATING and isinstance(sampling, MaskedSampling):
        return int(alternating_flops(networks, codes, name, classes, sampling, passes))
    whole = networks.generator_flops(codes, name, classes)
    if isinstance(sampling, BitSampling):  # a whole pass has one step of the bits
        network = networks.generator(codes, name, classes)
        more = len(allocation(network.bits, sampling.bit_steps)) - 1
        return int(passes * (whole + more * bit_head_flops(networks, codes, network)))
    return int(passes * (steps or 1) * whole)


def bit_head_flops(networks: Networks, codes: Codes, network: BitTransformer) -> int:
    """One step of the bits of all codes of an image."""
    states, bits = torch.empty(codes.count, network.states.norm.weight.numel()), ints(codes.count, network.bits)
    return networks.once(lambda: network.bit_head(states, bits), "bit head", codes, str(states.shape))


def alternating_flops(
    networks: Networks, codes: Codes, name: str, classes: int, sampling: MaskedSampling, passes: float
) -> float:
    """Of a sample: every step has a picture, which the encoder sees once; guidance repeats the passes of the rest."""
    section, steps = load_alternating(name, networks.params), sampling.steps
    later = [still_masked(step, steps, codes.count, sampling.mask_schedule) for step in range(steps - 1)]
    counts = [codes.count, *later]
    masked = sum(counts) // steps
    seen = look_flops(networks, codes, section, classes) + picture_flops(networks, codes, section, masked)
    return steps * (passes * draw_flops(networks, codes, section, classes, masked) + seen)


def build(networks: Networks, codes: Codes, section: Alternating, classes: int) -> AddpNetwork:
    """The trained networks."""
    facts = {"num_codes": codes.num_codes, "classes": range(classes), "num_patches": codes.count}
    shown = {"img_px": networks.img_px, "grid": codes.grid, "codebooks": codes.codebooks}
    sizes, seed = section.model.model_dump(include=SIZES), section.optim.seed
    return AddpNetwork(**shape_of(facts, shown, section.encoder.model_dump(), sizes, seed))


def look_flops(networks: Networks, codes: Codes, section: Alternating, classes: int) -> int:
    """The pixel encoder."""
    side, made = networks.img_px, partial(build, networks, codes, section, classes)
    return networks.once(lambda: made().features(torch.empty(1, 3, side, side)), "look", codes, str(section))


def draw_flops(networks: Networks, codes: Codes, section: Alternating, classes: int, masked: int) -> int:
    """The decoder to the masked codes."""

    def compute() -> None:
        made = build(networks, codes, section, classes)
        hidden = run(made.blocks, torch.empty(1, 1 + 2 * codes.count - masked, section.model.dim))
        F.linear(made.head(hidden[0, :masked]), made.embed_code.weight)

    return networks.once(compute, "draw", codes, str(section), masked)


def picture_flops(networks: Networks, codes: Codes, section: Alternating, masked: int) -> int:
    """The frozen decoder, with the mean code vectors of masked codes."""
    shown = decoder.load_params(section.decoder, networks.params)
    assert isinstance(shown, decoder.OneStepParams)
    widths = widths_from(codes.grid, networks.img_px, shown.widths)
    return 2 * masked * codes.num_codes * codes.dim + networks.convolutional_decoder_flops(codes, widths, shown.blocks)
