"""Images on their way into a network: pixel ranges, augmentation, training batches.

Images on disk are uint8 [B, H, W, 3]; networks take float [B, 3, H, W] in [-1, 1]. Augmentations are seeded and run on
the images' own device.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core import UserError
from stages.core.distributed import epoch_batch, linspace_indices, seed_of, share_of
from stages.core.schemas import Affine, Optim

EVAL_IMAGES = 256  # images per split on which curves are measured


def to_float(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"images: expected uint8 [B, H, W, 3], got {images.dtype} {list(images.shape)}")
    return images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], rounded to nearest, clipped."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def thumbnails(pixels: Tensor, px: int) -> Tensor:
    """float [B, 3, H, W] -> float [B, 3 * px * px]: area averages; smaller images keep their size."""
    return F.adaptive_avg_pool2d(pixels, min(px, pixels.shape[-1])).flatten(1)


def random_maps(count: int, params: Affine, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """float [count, 2, 3]: affine maps from output to input coordinates, in which a side runs from -1 to 1.

    `strength` scales all ranges.
    """
    return maps_of(torch.rand((5 + params.hflip, count), generator=rng), params, strength)


def seeded_maps(seeds: list[int], params: Affine) -> Tensor:
    """float [len(seeds), 2, 3]: one map per seed, the same as from `random_maps(1, …)` with that seed."""
    draws = [torch.rand(5 + params.hflip, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return maps_of(torch.stack(draws, 1), params, 1.0)


def maps_of(uniform: Tensor, params: Affine, strength: float) -> Tensor:
    """float [B, 2, 3] from uniforms [5 or 6, B] in [0, 1): angle, shear, flip if params.hflip, zoom, x and y shift."""
    draws = iter(uniform * 2 - 1)

    def either_way(reach: float) -> Tensor:
        return next(draws) * reach * strength

    angle = either_way(params.degrees).deg2rad()
    rotate = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    shear = torch.eye(2).repeat(len(angle), 1, 1)
    shear[:, 0, 1] = either_way(params.shear)
    if params.hflip:
        shear[:, :, 0] *= torch.where(next(draws) < 0, -1.0, 1.0)[:, None]
    zoom = 1 + either_way(params.scale)
    shift = torch.stack([either_way(2 * params.translate), either_way(2 * params.translate)], 1)
    return torch.cat([rotate @ shear / zoom[:, None, None], shift[:, :, None]], 2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """float [B, 3, H, W] resampled by the affine maps float [B, 2, 3]: bilinear, edges repeated."""
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_light(images: Tensor, rng: torch.Generator, *, contrast: float, brightness: float, noise: float) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1]: random contrast and brightness per image, Gaussian noise per pixel."""
    shape = (len(images), 1, 1, 1)
    gain = 1 + (torch.rand(shape, generator=rng) * 2 - 1) * contrast
    offset = (torch.rand(shape, generator=rng) * 2 - 1) * brightness
    sigma = torch.rand(shape, generator=rng) * noise
    grain = torch.randn(images.shape, generator=rng)
    return images * gain.to(images) + offset.to(images) + (sigma * grain).to(images)


def random_colors(images: Tensor, rng: torch.Generator, *, mix: float, gray: float) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1]: a random map of the color axes per image.

    `mix` goes from 0 (colors unchanged) to 1 (colors times a random orthogonal 3x3 matrix, which keeps contrasts and
    changes hues and lightness). `gray` is the share of images that lose their color.
    """
    turns = torch.linalg.qr(torch.randn(len(images), 3, 3, generator=rng))[0]
    maps = torch.eye(3) * (1 - mix) + turns * mix
    without = torch.rand(len(images), 1, 1, generator=rng) < gray
    maps = torch.where(without, maps.mean(1, keepdim=True).expand(-1, 3, -1), maps).to(images)
    return (maps @ images.flatten(2)).view_as(images)


def random_clouds(images: Tensor, rng: torch.Generator, amplitude: float) -> Tensor:
    """Images float [B, 3, H, W] plus random colored textures of three sizes.

    Each has its own standard deviation, at most `amplitude`; pixels run from -1 to 1.
    """
    for side in (4, 8, 16):
        field = torch.randn(len(images), 3, side, side, generator=rng)
        field *= torch.rand(len(images), 1, 1, 1, generator=rng) * amplitude
        images = images + F.interpolate(field.to(images), size=images.shape[2:], mode="bilinear")
    return images


class Batches:
    """Training batches of images, each a function of its step, and a plain subset for evaluation.

    `splits` are {train, val: stages.data.reader.ImageSplit}; `word` is a part of the augmentation's seed.
    """

    def __init__(self, word: str, splits: dict[str, Any], augment: Affine, optim: Optim):
        self.word, self.splits, self.affine, self.optim = word, splits, augment, optim

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, H, W, 3] and their random maps float [B, 2, 3]: this process's share of the batch."""
        index = self.batch_index(step)
        rng = torch.Generator().manual_seed(seed_of(self.word, self.optim.seed, step))
        maps = random_maps(len(index), self.affine, rng)
        return torch.from_numpy(self.splits["train"].read(share_of(index))), share_of(maps)

    def batch_index(self, step: int) -> np.ndarray:
        """int64 [batch_size]: indices of the train images of `step`, of all processes together."""
        optim = self.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_keys(self, step: int) -> list[str]:
        """The keys of the train images of `step`."""
        return self.splits["train"].keys_of(self.batch_index(step))

    @cached_property
    def eval_subset(self) -> dict[str, np.ndarray]:
        """{split: uint8 [M, H, W, 3]}: at most EVAL_IMAGES images per split, evenly spaced."""
        return {name: split.read(linspace_indices(len(split), EVAL_IMAGES)) for name, split in self.splits.items()}


def augmented(images: Tensor, maps: Tensor) -> Tensor:
    """A batch of `Batches`, on any device -> pixels float [B, 3, H, W] in [-1, 1]."""
    return warp(to_float(images, images.device), maps)
