"""Random views of training images: what a step sees, a function of the step alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from stages.core.augment import Affine, random_clouds, random_colours, random_light, random_maps, warp
from stages.core.loop import Optim, epoch_batch
from stages.core.params import Section
from stages.data.reader import ImageSplit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Pair = tuple["Tensor", "Tensor"]
Batch = tuple[Pair, Pair, "Tensor"]


class Views(Section):
    """What views of an image may differ in, at full strength."""

    affine: Affine
    mix_colours: float = Field(ge=0, le=1)  # 0: as they are … 1: a random turn of colour space
    grey: float = Field(ge=0, le=1)  # share of views without colour
    clouds: float = Field(ge=0, le=1)  # random coloured texture added, its deviation at most
    contrast: float = Field(ge=0, lt=1)  # gain 1 ± contrast, pixels in [-1, 1]
    brightness: float = Field(ge=0, le=1)  # offset ± brightness
    noise: float = Field(ge=0, le=1)  # Gaussian sigma, at most
    start_strength: float = Field(ge=0, le=1)  # curriculum: ranges grow from this fraction …
    ramp: float = Field(ge=0, le=1)  # … to 1 over this fraction of the steps


def view(images: Tensor, maps: Tensor, views: Views, strength: float, rng: torch.Generator) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1] seen through `maps` [B, 2, 3], in other colours and another light."""
    seen = warp(images, maps)
    if views.mix_colours or views.grey:
        seen = random_colours(seen, rng, mix=views.mix_colours * strength, grey=views.grey * strength)
    if views.clouds:
        seen = random_clouds(seen, rng, views.clouds * strength)
    light = {name: getattr(views, name) * strength for name in ("contrast", "brightness", "noise")}
    return random_light(seen, rng, **light)


def batches(
    split: ImageSplit, views: Views, optim: Optim, device: torch.device
) -> tuple[Callable[[int], Batch], Callable[[int], list[str]]]:
    """step -> two views float [B, 3, H, W] in [-1, 1], their maps [B, 2, 3], the classes int64 [B]; step -> names."""
    import torch

    from stages.core.pixels import to_float
    from stages.core.rng import seed_of

    ramp_steps = max(1.0, views.ramp * optim.total_steps)

    def index_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(split), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> Batch:
        index = index_at(step)
        images = to_float(split.read(index), device)
        strength = views.start_strength + (1 - views.start_strength) * min(1.0, step / ramp_steps)
        rng = torch.Generator().manual_seed(seed_of("views", optim.seed, step))
        first, second = (random_maps(len(images), views.affine, rng, strength).to(device) for _ in range(2))
        pair = [view(images, maps, views, strength, rng) for maps in (first, second)]
        return (pair[0], pair[1]), (first, second), torch.as_tensor(split.labels[index]).to(device)

    return batch_at, lambda step: [split.keys[i] for i in index_at(step)]
