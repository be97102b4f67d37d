"""diffusion: a flow from noise to pixels, conditioned on the codes, in one to three steps (epsilon-VAE, ICML 2025)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.networks import load_tensors
from stages.decoder.decoder import Decoder, latents, normal, standardized
from stages.decoder.flow import Flow, time_grid
from stages.decoder.params import Conditioning, StepSpacing
from stages.decoder.unet import UNet


class VelocityNetwork(nn.Module):
    """Standardized code vectors, which are not trained, and a U-Net that predicts the velocity of the flow."""

    vectors: Tensor

    def __init__(
        self, vectors_KD: Tensor, codebooks: int, widths: list[int], blocks: int,
        conditioning: Conditioning, flow: Flow,
    ):  # fmt: skip
        super().__init__()
        self.codebooks, self.flow = codebooks, flow
        self.register_buffer("vectors", standardized(vectors_KD))
        self.unet = UNet(codebooks * vectors_KD.shape[1], widths, blocks, conditioning)

    def forward(self, x_t: Tensor, t: Tensor, codes_BN: Tensor) -> Tensor:
        """float [B, 3, H, W], float [B], int64 [B, N] for any grid -> v, float32 [B, 3, H, W]."""
        condition = latents(self.vectors, codes_BN, self.codebooks)
        return self.flow.velocity_of(self.unet(self.flow.scaled(x_t, t), t, condition), x_t, t)

    def sample(self, codes_BN: Tensor, noise: Tensor, steps: int, spacing: StepSpacing) -> Tensor:
        """int64 [B, N], standard normal [B, 3, H, W] -> x0-hat, float [B, 3, H, W], after `steps` steps."""
        return self.flow.sample(lambda x, t: self(x, t, codes_BN), noise, time_grid(steps, spacing))


class DiffusionDecoder(Decoder):
    """Samples from noise that depends on seed and codes, with the steps that `sampling` in its config names."""

    network: VelocityNetwork
    any_size = True

    @property
    def steps(self) -> int:
        """Steps of the flow."""
        return self.config["sampling"]["steps"]

    def decode_batch(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        side = self.config["img_px"]
        noise = normal(seeds_B, (3, side, side), self.device)
        return self.network.sample(codes_BN, noise, **self.config["sampling"])


def build(vectors_KD: Tensor, config: dict[str, Any]) -> VelocityNetwork:
    """The network that a decoder's config describes."""
    shape = [config[key] for key in ("codebooks", "widths", "blocks", "conditioning")]
    return VelocityNetwork(vectors_KD, *shape, Flow(**config["flow"]))


def load(folder: Path, config: dict[str, Any], device: torch.device | str) -> DiffusionDecoder:
    """The decoder artifact in `folder`."""
    state = load_tensors(folder, "model.safetensors")
    network = build(state["vectors"], config)
    network.load_state_dict(state)
    return DiffusionDecoder(network, config, device)
