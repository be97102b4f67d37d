"""The layers of generators that read codes, and the same networks untrained."""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from stages.core.distributed import seed_of
from stages.generator.transformer import TokenTransformer, build_network
from stages.studies.layer_means import Layers


def layers_of_codes(network: Any) -> Layers:
    """Of a generator of codes, which is run on batches int64 [B, N] without a class or caption.

    Nothing is masked and codes stand in raster order. A causal network never reads the last code; one that predicts
    codes in any order has a position for each code it reads and for each it is asked for. The network is changed: it
    has no head afterwards.
    """
    reader = getattr(network, "states", network)  # ar_bits: its transformer
    reader.head = nn.Identity()
    if isinstance(reader, TokenTransformer):  # the null caption is the last position of its prefix
        return Layers(reader.blocks, lambda codes: reader(reader.null(len(codes)), codes), reader.prefix_length - 1)
    return Layers(reader.blocks, lambda codes: reader(torch.full_like(codes[:, 0], reader.num_classes), codes))


def untrained(kind: ModuleType, shape: dict[str, Any], seed: int) -> Any:
    """The network of a generator of codes with this shape, with random initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("layer_probe", seed))
        return build_network(kind, shape).eval()
