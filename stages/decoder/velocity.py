"""The network of the diffusion decoder, and the decoder: code vectors and the flow that carries noise to their image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.convnet import to_grid
from stages.decoder.flow import Flow, Spacing, time_grid
from stages.decoder.unet import Conditioning, UNet

if TYPE_CHECKING:
    import numpy as np


class Velocity(nn.Module):
    """Code vectors and the U-Net that says which way their image lies.

    The vectors are part of the weights, standardised over the codebook, and do not learn.
    """

    vectors: Tensor

    def __init__(
        self, vectors_KD: Tensor, groups: int, widths: list[int], blocks: int, conditioning: Conditioning, flow: Flow
    ):
        super().__init__()
        self.groups, self.flow = groups, flow
        scaled = (vectors_KD - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0).mean().clamp(min=1e-6)
        self.register_buffer("vectors", scaled.float())
        self.unet = UNet(groups * vectors_KD.shape[1], widths, blocks, conditioning)

    def latents(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> float [B, groups * D, grid, grid]; N = groups * grid² for any grid."""
        return to_grid(self.vectors[codes_BN], int((codes_BN.shape[1] // self.groups) ** 0.5))

    def forward(self, x_t: Tensor, t: Tensor, codes_BN: Tensor) -> Tensor:
        """float [B, 3, H, W], float [B], int64 [B, N] -> v, float32 [B, 3, H, W]."""
        return self.unet(self.flow.scaled(x_t, t), t, self.latents(codes_BN))

    def sample(self, codes_BN: Tensor, noise: Tensor, steps: int, spacing: Spacing) -> Tensor:
        """int64 [B, N], standard normal [B, 3, H, W] -> x0-hat, float [B, 3, H, W], after `steps` Euler steps."""
        return self.flow.sample(lambda x, t: self(x, t, codes_BN), noise, time_grid(steps, spacing))
