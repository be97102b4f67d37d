"""The embedded encoder's network: timm's vision transformer on a convolutional stem."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class ConvStem(nn.Module):
    """Patch embedding by stride-2 convolutions ("Early convolutions help transformers see better", 2021).

    float [B, 3, img_px, img_px] -> [B, N, D], N = (img_px / patch_px)². patch_px is a power of two.
    Takes the arguments that timm gives to any `embed_layer`.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        self.num_patches = (img_size // patch_size) ** 2
        self.patch_size = (patch_size, patch_size)
        widths = [in_chans] + [embed_dim // 2 ** (halvings - i) for i in range(halvings)]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(width_in, width_out, 3, 2, 1), nn.GroupNorm(8, width_out), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1))

    def feat_ratio(self) -> tuple[int, int]:
        """Input pixels a patch, as timm asks for it."""
        return self.patch_size

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


def build_vit(*, img_px: int, patch_px: int, dim: int, depth: int, heads: int, seed: int) -> VisionTransformer:
    """The network with seeded initial weights; without class token, so that every output row is a patch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(
            img_size=img_px, patch_size=patch_px, embed_dim=dim, depth=depth, num_heads=heads,
            embed_layer=ConvStem, class_token=False, global_pool="avg", num_classes=0, fc_norm=False,
        )  # fmt: skip
