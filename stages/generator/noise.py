"""The noise behind a sample: a function of the seed and of the sample's number."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core.rng import seed_of


def noise(seed: int, first: int, count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniforms [count, *shape] for samples first … first + count - 1; each depends on (seed, its number) alone,

    so that a sample is the same in any batch and on any device.
    """
    rows = [
        torch.rand(shape, generator=torch.Generator().manual_seed(seed_of("sample", seed, first + i)))
        for i in range(count)
    ]
    return torch.stack(rows).to(device)
