"""onestep: a convolutional decoder that decodes all codes of an image at once."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.networks import ConvDecoder, load_tensors
from stages.decoder.decoder import Decoder, latents, standardized


class OneStep(nn.Module):
    """Standardized code vectors, which are not trained, and a convolutional network from them to pixels."""

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, codebooks: int, widths: list[int], blocks: int):
        super().__init__()
        self.codebooks = codebooks
        self.register_buffer("vectors", standardized(vectors_KD))
        self.network = ConvDecoder(codebooks * vectors_KD.shape[1], widths, blocks)

    def forward(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> float [B, 3, img_px, img_px], about [-1, 1]; N = codebooks * grid² for any grid."""
        return self.network(latents(self.vectors, codes_BN, self.codebooks))


class OneStepDecoder(Decoder):
    """Deterministic; images of any size."""

    stochastic = False
    any_size = True

    def decode_batch(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        return self.network(codes_BN)


def build(vectors_KD: Tensor, config: dict[str, Any]) -> OneStep:
    """The network that a decoder's config describes."""
    return OneStep(vectors_KD, config["codebooks"], config["widths"], config["blocks"])


def load(folder: Path, config: dict[str, Any], device: torch.device | str) -> OneStepDecoder:
    """The decoder artifact in `folder`, which may be the joint decoder inside a codebook artifact."""
    state = load_tensors(folder, "model.safetensors")
    network = build(state["vectors"], config)
    network.load_state_dict(state)
    return OneStepDecoder(network, config, device)
