"""The embedded encoder's network: timm's vision transformer on a convolutional stem."""

from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


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
    Takes the arguments that timm passes to any `embed_layer`.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, residual_blocks: int, **_: object
    ):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        self.num_patches = (img_size // patch_size) ** 2
        self.patch_size = (patch_size, patch_size)
        widths = [in_chans] + [embed_dim // 2 ** (halvings - i) for i in range(halvings)]
        layers: list[nn.Module] = []
        if residual_blocks:
            widths[0] = widths[1] // 2
            layers += convolution(in_chans, widths[0], 1)
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += convolution(width_in, width_out, 2)
            layers += [ResidualBlock(width_out) for _ in range(residual_blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1))

    def feat_ratio(self) -> tuple[int, int]:
        """Input pixels per patch, under the name that timm calls."""
        return self.patch_size

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


def build_vit(
    *, img_px: int, patch_px: int, dim: int, depth: int, heads: int, seed: int, stem_blocks: int = 0
) -> VisionTransformer:
    """The network with seeded initial weights; without class token, so that every output vector is a patch.

    `stem_blocks` residual blocks follow each halving in the stem, for a hybrid of convolutions and attention.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(
            img_size=img_px, patch_size=patch_px, embed_dim=dim, depth=depth, num_heads=heads,
            embed_layer=partial(ConvStem, residual_blocks=stem_blocks), class_token=False, global_pool="avg",
            num_classes=0, fc_norm=False,
        )  # fmt: skip
