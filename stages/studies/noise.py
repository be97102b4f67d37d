"""Gaussian noise of a given signal-to-noise ratio (SNR) in dB, and the foreground positions of a code grid.

The signal of an image is what varies in it: its power is the variance of each channel around that channel's own mean,
averaged over the channels (the AC power). Raw power would count the level of black as signal, so that the same
picture would get another amount of noise when pixels run from 0 to 1 instead of from -1 to 1.

Foreground is defined by masks where every image used has one, else by local variance: one rule for all images, since
metrics under the two rules are of different positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from stages.core.distributed import seed_of


def unit_noise(numbers: Sequence[int], img_px: int, seed: int) -> Tensor:
    """float32 [B, 3, img_px, img_px] of unit variance; each image's is a function of (seed, its number) alone."""
    rngs = [torch.Generator().manual_seed(seed_of("stability", seed, number)) for number in numbers]
    return torch.stack([torch.randn(3, img_px, img_px, generator=rng) for rng in rngs])


def signal_power(pixels: Tensor) -> Tensor:
    """float [B, 3, H, W] -> float [B]: the AC power of each image, in squared pixel units."""
    return pixels.var((2, 3), correction=0).mean(1)


def noise_sigma(power: Tensor, snr_db: float) -> Tensor:
    """The deviation of noise that is `snr_db` below a signal of this power: 10 log10(power / sigma²) = snr_db."""
    return (power * 10 ** (-snr_db / 10)).sqrt()


def measured_snr_db(pixels: Tensor, noisy: Tensor) -> Tensor:
    """float [B]: 10 log10 of signal power over the mean square of what was added to each image."""
    return 10 * torch.log10(signal_power(pixels) / (noisy - pixels).square().mean((1, 2, 3)))


def foreground_by_variance(pixels: Tensor, grid: int, threshold: float) -> Tensor:
    """float [B, 3, H, W] -> bool [B, N]: patches in which the variance, averaged over channels, exceeds `threshold`.

    On grids that do not divide the image, patches overlap by a pixel (torch's adaptive pooling).
    """
    centered = pixels - pixels.mean((2, 3), keepdim=True)  # or squares of nearly equal numbers would cancel
    variance = adaptive_avg_pool2d(centered.square(), grid) - adaptive_avg_pool2d(centered, grid).square()
    return (variance.mean(1) > threshold).flatten(1)


def foreground_by_mask(masks: Tensor, grid: int) -> Tensor:
    """bool [B, H, W] -> bool [B, N]: patches in which the mask covers any pixel."""
    return (adaptive_max_pool2d(masks.float(), grid) > 0).flatten(1)
