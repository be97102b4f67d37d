"""U-Net from an image, a time and a grid of latents to an image, after ADM (Dhariwal and Nichol 2021).

    x_t ─► level ─► down ─► level ─► … ─► level ─► up ─► level ─► output   skip connections between equal levels
            latents: concatenated with x_t (concat), or in every AdaGN, resized to its level (adagn)

It is convolutional: the same weights run at any image size that the levels divide, with latents of any grid.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.decoder.params import Conditioning


class TimeEmbedding(nn.Module):
    """float [B] in [0, 1] -> float [B, width, 1, 1]: sinusoids of 1000 t through a two-layer MLP."""

    frequencies: Tensor

    def __init__(self, width: int, waves: int = 32):
        super().__init__()
        steps = torch.arange(waves) / waves
        self.register_buffer("frequencies", 1000 * torch.exp(-math.log(10_000) * steps), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]


class AdaGn(nn.Module):
    """Group norm with scale and shift from an embedding [B, E, 1 or H, 1 or W]; initialized to scale 1, shift 0."""

    def __init__(self, width: int, embed_dim: int):
        super().__init__()
        self.norm, self.modulate = nn.GroupNorm(8, width, affine=False), nn.Conv2d(embed_dim, 2 * width, 1)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.get_parameter("bias"))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(F.silu(embedding)).chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


class Block(nn.Module):
    """Pre-activation residual block with AdaGN; its second convolution is initialized to zero."""

    def __init__(self, width_in: int, width: int, embed_dim: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1))
        self.norm = AdaGn(width, embed_dim)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.across = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        nn.init.zeros_(self.second[-1].get_parameter("weight"))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.across(x) + self.second(self.norm(self.first(x), embedding))


class Level(nn.ModuleList):
    """Residual blocks at one size."""

    def __init__(self, width_in: int, width: int, blocks: int, embed_dim: int):
        super().__init__(Block(width if n else width_in, width, embed_dim) for n in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class UNet(nn.Module):
    """`widths`: channels of the coarsest level, then after each doubling. `blocks`: residual blocks per level."""

    def __init__(self, latent_dim: int, widths: list[int], blocks: int, conditioning: Conditioning):
        super().__init__()
        fine, embed_dim = widths[::-1], 4 * widths[-1]
        concat = conditioning == "concat"
        self.time = TimeEmbedding(embed_dim)
        self.known = None if concat else nn.Conv2d(latent_dim, embed_dim, 1)
        self.enter = nn.Conv2d(3 + latent_dim * concat, fine[0], 3, padding=1)
        self.down = nn.ModuleList(Level(width, width, blocks, embed_dim) for width in fine)
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(fine))
        self.doublings = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1)) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(Level(2 * width, width, blocks, embed_dim) for width in widths[1:])
        self.leave = nn.Sequential(nn.GroupNorm(8, fine[0]), nn.SiLU(), nn.Conv2d(fine[0], 3, 3, padding=1))
        nn.init.zeros_(self.leave[-1].get_parameter("weight"))

    def forward(self, x: Tensor, t: Tensor, latents: Tensor) -> Tensor:
        """float [B, 3, H, W], float [B], float [B, D, grid, grid] -> float [B, 3, H, W]."""
        time, known, skips = self.time(t), None if self.known is None else self.known(latents), []

        def embedding() -> Tensor:
            return time if known is None else time + resized(known, x.shape[-1])

        x = self.enter(x if known is not None else torch.cat([x, resized(latents, x.shape[-1])], 1))
        for level, halve in zip(self.down, [*self.halvings, None], strict=True):
            x = level(x, embedding())
            if halve is not None:
                skips.append(x)
                x = halve(x)
        for level, double in zip(self.up, self.doublings, strict=True):
            x = torch.cat([double(x), skips.pop()], 1)
            x = level(x, embedding())
        return self.leave(x).float()


def resized(latents: Tensor, side: int) -> Tensor:
    """float [B, D, grid, grid] -> float [B, D, side, side]: nearest neighbor to enlarge, area average to shrink."""
    if side >= latents.shape[-1]:
        return F.interpolate(latents, size=side, mode="nearest")
    return F.adaptive_avg_pool2d(latents, side)
