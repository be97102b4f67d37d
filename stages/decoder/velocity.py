"""The diffusion decoder and its network: code vectors, and the flow that carries noise to their image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.decoder.flow import Flow, Spacing, time_grid
from stages.decoder.model import Decoder, latents, standardised
from stages.decoder.noise import normal
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
        self.register_buffer("vectors", standardised(vectors_KD))
        self.unet = UNet(groups * vectors_KD.shape[1], widths, blocks, conditioning)

    def forward(self, x_t: Tensor, t: Tensor, codes_BN: Tensor) -> Tensor:
        """float [B, 3, H, W], float [B], int64 [B, N] for any grid -> v, float32 [B, 3, H, W]."""
        known = latents(self.vectors, codes_BN, self.groups)
        return self.flow.velocity_of(self.unet(self.flow.scaled(x_t, t), t, known), x_t, t)

    def sample(self, codes_BN: Tensor, noise: Tensor, steps: int, spacing: Spacing) -> Tensor:
        """int64 [B, N], standard normal [B, 3, H, W] -> x0-hat, float [B, 3, H, W], after `steps` steps."""
        return self.flow.sample(lambda x, t: self(x, t, codes_BN), noise, time_grid(steps, spacing))


class DiffusionDecoder(Decoder):
    """Starts from noise that is a function of seed and codes; `sampling` in its config says how it goes on."""

    network: Velocity
    any_size = True

    @property
    def steps(self) -> int:
        """Of the flow."""
        return self.config["sampling"]["steps"]

    def paint(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        side = self.config["img_px"]
        noise = normal(seeds_B, (3, side, side), self.device)
        return self.network.sample(codes_BN, noise, **self.config["sampling"])


def build(vectors_KD: Tensor, config: dict[str, Any]) -> Velocity:
    """The network that a decoder's config describes."""
    shape = [config[key] for key in ("groups", "widths", "blocks", "conditioning")]
    return Velocity(vectors_KD, *shape, Flow(**config["flow"]))


def load_diffusion(folder: Path, config: dict[str, Any], device: torch.device | str) -> DiffusionDecoder:
    """The decoder artefact in `folder`."""
    state = artefact.load_tensors(folder, "model.safetensors")
    network = build(state["vectors"], config)
    network.load_state_dict(state)
    return DiffusionDecoder(network, config, device)
