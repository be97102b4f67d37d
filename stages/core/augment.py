"""Random geometry and light for whole batches of images, seeded, on the images' own device.

Used wherever a network trains on moved images, for the "moved" probe images and for the views that are tokenised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from stages.core.params import Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Affine(Section):
    """How far a random affine map may go, and whether it may mirror."""

    degrees: float = Field(ge=0, le=180)  # rotation, either way
    scale: float = Field(ge=0, lt=1)  # size times 1 - scale ... 1 + scale
    translate: float = Field(ge=0, lt=1)  # shift as a fraction of the side, each axis, either way
    shear: float = Field(ge=0, lt=1)  # horizontal shift a unit of height, either way
    mirror: bool  # flip left-right half of the time


def random_maps(count: int, params: Affine, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """float [count, 2, 3]: affine maps from output to input coordinates, in which a side runs from -1 to 1.

    `strength` scales all ranges.
    """
    import torch

    return maps_of(torch.rand((5 + params.mirror, count), generator=rng), params, strength)


def own_maps(seeds: list[int], params: Affine) -> Tensor:
    """float [len(seeds), 2, 3]: a map a seed, whatever the others: that of `random_maps(1, …)` with that seed."""
    import torch

    draws = [torch.rand(5 + params.mirror, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return maps_of(torch.stack(draws, 1), params, 1.0)


def maps_of(uniform: Tensor, params: Affine, strength: float) -> Tensor:
    """The maps of draws from 0 to 1: rows of angle, shear, (mirror,) zoom, and shift along both axes."""
    import torch

    draws = iter(uniform * 2 - 1)

    def either_way(reach: float) -> Tensor:
        return next(draws) * reach * strength

    angle = either_way(params.degrees).deg2rad()
    rotate = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    shear = torch.eye(2).repeat(len(angle), 1, 1)
    shear[:, 0, 1] = either_way(params.shear)
    if params.mirror:
        shear[:, :, 0] *= torch.where(next(draws) < 0, -1.0, 1.0)[:, None]
    zoom = 1 + either_way(params.scale)
    shift = torch.stack([either_way(2 * params.translate), either_way(2 * params.translate)], 1)
    return torch.cat([rotate @ shear / zoom[:, None, None], shift[:, :, None]], 2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """float [B, 3, H, W] seen through float [B, 2, 3] maps: bilinear, edges repeated."""
    from torch.nn import functional as F

    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_light(images: Tensor, rng: torch.Generator, *, contrast: float, brightness: float, noise: float) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1]: contrast and brightness of each image, Gaussian noise of each pixel."""
    import torch

    shape = (len(images), 1, 1, 1)
    gain = 1 + (torch.rand(shape, generator=rng) * 2 - 1) * contrast
    offset = (torch.rand(shape, generator=rng) * 2 - 1) * brightness
    sigma = torch.rand(shape, generator=rng) * noise
    grain = torch.randn(images.shape, generator=rng)
    return images * gain.to(images) + offset.to(images) + (sigma * grain).to(images)


def random_colours(images: Tensor, rng: torch.Generator, *, mix: float, grey: float) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1]: the three colour axes of each turned, mirrored, or all made one.

    `mix` goes from 0, colours as they are, to 1, where they are multiplied by a random orthogonal 3x3 matrix: contrasts
    stay as strong, hues and what is dark or bright do not. `grey` is the share of images that lose their colour.
    """
    import torch

    turns = torch.linalg.qr(torch.randn(len(images), 3, 3, generator=rng))[0]
    maps = torch.eye(3) * (1 - mix) + turns * mix
    without = torch.rand(len(images), 1, 1, generator=rng) < grey
    maps = torch.where(without, maps.mean(1, keepdim=True).expand(-1, 3, -1), maps).to(images)
    return (maps @ images.flatten(2)).view_as(images)


def random_clouds(images: Tensor, rng: torch.Generator, amplitude: float) -> Tensor:
    """Images float [B, 3, H, W] under random coloured textures of three sizes, each with its own deviation.

    The deviations are at most `amplitude`; pixels run from -1 to 1.
    """
    import torch
    from torch.nn import functional as F

    for side in (4, 8, 16):
        field = torch.randn(len(images), 3, side, side, generator=rng)
        field *= torch.rand(len(images), 1, 1, 1, generator=rng) * amplitude
        images = images + F.interpolate(field.to(images), size=images.shape[2:], mode="bilinear")
    return images
