"""The convolutional autoencoder behind vqgan and fsq: images -> rows -> quantised rows -> images.

Encoder and decoder mirror each other; what lies between them is a quantiser. The trained decoder half is written as a
decoder artefact of its own, `decoder/` inside the codebook artefact: load_decoder("data/codebook/vqgan/decoder").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.codebook.anchor import live_fraction, reanchor, running_share
from stages.codebook.quantise import Fsq, Vq
from stages.core import artefact
from stages.core.convnet import ConvDecoder, ConvEncoder, to_grid


class Autoencoder(nn.Module):
    """`noise` is the sigma of Gaussian noise on the encoder's input while training; pixels run from -1 to 1."""

    share: Tensor  # float [K]: running share of rows that choose each code

    def __init__(self, quantiser: Vq | Fsq, shape: dict[str, Any], noise: float, anchored: bool):
        super().__init__()
        num_codes, dim = quantiser.vectors.shape
        self.encoder = ConvEncoder(dim, shape["widths"], shape["blocks"])
        self.decoder = ConvDecoder(dim, shape["widths"], shape["blocks"])
        self.quantiser, self.grid, self.noise, self.anchored = quantiser, shape["grid"], noise, anchored
        self.register_buffer("share", torch.zeros(num_codes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """float [B, 3, H, W] -> reconstruction, the quantiser's loss, {"live_fraction"} of its codes."""
        if self.training and self.noise:
            pixels = pixels + self.noise * torch.randn_like(pixels)
        rows = self.encoder(pixels).float()
        if self.training and self.anchored:
            reanchor(self.quantiser.vectors, self.share, rows.detach().flatten(0, 1))
        quantised, codes, loss = self.quantiser(rows)
        if self.training:
            self.share = running_share(self.share, codes)
        return self.decoder(to_grid(quantised, self.grid)), loss, {"live_fraction": live_fraction(self.share)}


def decoder_state(network: Autoencoder) -> dict[str, Tensor]:
    """The decoder half in the names of a decoder artefact, with the code vectors as they are."""
    painter = {f"painter.{key}": tensor for key, tensor in network.decoder.state_dict().items()}
    return {"vectors": network.quantiser.vectors.detach().clone(), **painter}


def load_conv(folder: Path, config: dict[str, Any], device: torch.device | str) -> ConvEncoder:
    """The trained encoder half of the codebook artefact in `folder`."""
    encoder = ConvEncoder(config["dim"], config["widths"], config["blocks"])
    encoder.load_state_dict(artefact.load_tensors(folder, "encoder.safetensors"))
    return encoder.to(device).requires_grad_(False)
