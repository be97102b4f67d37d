"""Convolutions between a grid of vectors and pixels, one way and the other.

widths[0] is the width on the grid of codes, widths[i] after i doublings: grid * 2^(len(widths) - 1) = img_px.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """Pre-activation residual block; its last convolution starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ConvDecoder(nn.Module):
    """float [B, D, grid, grid] -> float [B, 3, img_px, img_px], about [-1, 1], doubling the side level by level."""

    def __init__(self, dim: int, widths: list[int], blocks: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 1)]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], width, 3, padding=1)]
            layers += [ResBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU())
        self.to_pixels = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        return self.to_pixels(self.layers(grid))


class ConvEncoder(nn.Module):
    """float [B, 3, img_px, img_px] -> float [B, N, D], one row a position of the grid, row-major."""

    def __init__(self, dim: int, widths: list[int], blocks: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += [ResBlock(widths[level]) for _ in range(blocks)]
            if level:
                layers += [nn.Conv2d(widths[level], widths[level - 1], 3, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], dim, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels).flatten(2).transpose(1, 2)


def to_grid(rows: Tensor, grid: int) -> Tensor:
    """[B, N, D] -> [B, G * D, grid, grid]; N = G * grid², the G codes of a position side by side in channels."""
    groups = rows.shape[1] // grid**2
    return rows.unflatten(1, (groups, grid, grid)).permute(0, 1, 4, 2, 3).flatten(1, 2)


class PatchDiscriminator(nn.Module):
    """Strided convolutions to one score a patch of pixels (PatchGAN, Isola et al. 2017)."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] -> [B, 1, H/4, W/4]."""
        return self.layers(pixels)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of relu(1 - D(real)) and relu(1 + D(fake))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
