"""The convolutional autoencoder of vqgan and fsq: images -> features -> quantized features -> images.

Encoder and decoder are mirrored; between them is a quantizer. The trained decoder is written as a decoder artifact
of its own, `decoder/` inside the codebook artifact: load_decoder("data/codebook/vqgan/decoder").
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.codebook.dead_codes import live_fraction, revive_dead_codes, running_share
from stages.codebook.quantizers import Fsq, Vq
from stages.core.distributed import num_shares, share_of
from stages.core.hardware import gathered
from stages.core.networks import ConvDecoder, ConvEncoder, load_tensors, to_grid

WEIGHTS = "encoder.safetensors"  # of a codebook artifact


class Autoencoder(nn.Module):
    """`noise` is the sigma of Gaussian noise on the encoder's input while training; pixels run from -1 to 1."""

    share: Tensor  # float [K]: running share of features that choose each code

    def __init__(self, quantizer: Vq | Fsq, shape: dict[str, Any], noise: float, revive: bool):
        super().__init__()
        num_codes, dim = quantizer.vectors.shape
        self.encoder = ConvEncoder(dim, shape["widths"], shape["blocks"])
        self.decoder = ConvDecoder(dim, shape["widths"], shape["blocks"])
        self.quantizer, self.grid, self.noise, self.revive = quantizer, shape["grid"], noise, revive
        self.register_buffer("share", torch.zeros(num_codes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """float [B, 3, H, W] -> reconstruction, the quantizer's loss, {"live_fraction"} of its codes.

        Codes are revived and counted by the features of all processes.
        """
        if self.training and self.noise:
            noise = torch.randn(len(pixels) * num_shares(), *pixels.shape[1:], device=pixels.device)
            pixels = pixels + self.noise * share_of(noise)
        features = self.encoder(pixels).float()
        if self.training and self.revive:
            revive_dead_codes(self.quantizer.vectors, self.share, gathered(features.detach().flatten(0, 1)))
        quantized, codes, loss = self.quantizer(features)
        if self.training:
            self.share = running_share(self.share, gathered(codes))
        return self.decoder(to_grid(quantized, self.grid)), loss, {"live_fraction": live_fraction(self.share)}


def load(folder: Path, config: dict[str, Any]) -> ConvEncoder:
    """The trained encoder of the codebook artifact in `folder`."""
    encoder = ConvEncoder(config["dim"], config["widths"], config["blocks"])
    encoder.load_state_dict(load_tensors(folder, WEIGHTS))
    return encoder.requires_grad_(False)
