"""The embedded encoder's network: a vision transformer on a convolutional stem.

It computes what timm's VisionTransformer computes, to the bit, by the same names of tensors and from the same initial
weights. timm itself is not imported: that takes as long as importing torch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STD = 0.02


def convolution(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
    """A 3x3 convolution, normalization and activation."""
    return [nn.Conv2d(width_in, width_out, 3, stride, 1), nn.GroupNorm(8, width_out), nn.GELU()]


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions ("Identity mappings in deep residual networks", 2016).

    float [B, width, H, W] -> the same shape.
    """

    def __init__(self, width: int):
        super().__init__()
        halves = [[nn.GroupNorm(8, width), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1)] for _ in range(2)]
        self.layers = nn.Sequential(*halves[0], *halves[1])

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)


class ConvStem(nn.Module):
    """Patch embedding by stride-2 convolutions ("Early convolutions help transformers see better", 2021).

    float [B, 3, img_px, img_px] -> [B, N, D], N = (img_px / patch_px)². patch_px is a power of two.
    `residual_blocks` follow each halving of the map; with any, a convolution at full resolution comes first.
    """

    def __init__(self, patch_px: int, dim: int, residual_blocks: int):
        super().__init__()
        halvings = patch_px.bit_length() - 1
        self.patch_size = (patch_px, patch_px)
        widths = [3] + [dim // 2 ** (halvings - i) for i in range(halvings)]
        layers: list[nn.Module] = []
        if residual_blocks:
            widths[0] = widths[1] // 2
            layers += convolution(3, widths[0], 1)
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += convolution(width_in, width_out, 2)
            layers += [ResidualBlock(width_out) for _ in range(residual_blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, float [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BND).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear, four times as wide in between."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))


class Block(nn.Module):
    """Pre-norm transformer block, float [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


@torch.no_grad()
def draw_normal(weight: Tensor) -> None:
    """Fill with N(0, INITIAL_STD²), at most 2 in size, from the draws that timm makes; torch's own makes others."""
    weight.uniform_(-1, 1).erfinv_().mul_(INITIAL_STD * 2**0.5).clamp_(-2, 2)


class VisionTransformer(nn.Module):
    """Patch features of images, without class token, so that every output vector is a patch.

    Attributes and methods that `Encoder` uses have timm's names.
    """

    def __init__(self, img_px: int, patch_px: int, dim: int, depth: int, heads: int, stem_blocks: int):
        super().__init__()
        self.embed_dim = dim
        self.patch_embed = ConvStem(patch_px, dim, stem_blocks)
        self.pos_embed = nn.Parameter(torch.empty(1, (img_px // patch_px) ** 2, dim))
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.norm, self.fc_norm = nn.LayerNorm(dim, eps=1e-6), nn.Identity()
        linear = [module.weight for module in self.blocks.modules() if isinstance(module, nn.Linear)]
        for weight in (self.pos_embed, *linear):
            draw_normal(weight)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalized images float [B, 3, img_px, img_px] -> features [B, N, D], after the last normalization."""
        return self.norm(self.blocks(self.patch_embed(images) + self.pos_embed))

    def forward_intermediates(self, images: Tensor, *, indices: list[int], **_: Any) -> list[Tensor]:
        """Normalized images -> the outputs [B, N, D] of the ascending blocks `indices`, without normalization."""
        x_BND, found = self.patch_embed(images) + self.pos_embed, []
        for index, block in enumerate(self.blocks[: indices[-1] + 1]):
            x_BND = block(x_BND)
            if index in indices:
                found.append(x_BND)
        return found


def build_vit(
    *, img_px: int, patch_px: int, dim: int, depth: int, heads: int, seed: int, stem_blocks: int = 0
) -> VisionTransformer:
    """The network with seeded initial weights.

    `stem_blocks` residual blocks follow each halving in the stem, for a hybrid of convolutions and attention.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(img_px, patch_px, dim, depth, heads, stem_blocks)
