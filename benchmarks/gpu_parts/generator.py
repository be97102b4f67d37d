"""The generator that is trained and sampled: autoregressive, with random weights."""

import math
from typing import Any

import torch

from benchmarks.gpu_parts.sizes import Sizes
from stages.generator.transformer import TokenTransformer

CLASSES = 1000


def generator(sizes: Sizes, device: torch.device | str = "cpu") -> TokenTransformer:
    """The network with its initial weights."""
    torch.manual_seed(0)
    codes: dict[str, Any] = {"num_codes": sizes.num_codes, "num_classes": CLASSES, "num_patches": sizes.patches}
    shape = codes | {"grid": math.isqrt(sizes.patches)}
    with torch.device(device):
        return TokenTransformer(**shape, dim=sizes.dim, depth=sizes.depth, heads=sizes.heads, dropout=0.0, causal=True)
