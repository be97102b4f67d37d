"""The network of the one-step decoder: code vectors and the convolutions that paint them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.convnet import ConvDecoder
from stages.decoder.model import Decoder, latents, standardised

if TYPE_CHECKING:
    import numpy as np


class OneStep(nn.Module):
    """Code vectors and the convolutions that paint them.

    The vectors are part of the weights, standardised over the codebook, and do not learn.
    """

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, groups: int, widths: list[int], blocks: int):
        super().__init__()
        self.groups = groups
        self.register_buffer("vectors", standardised(vectors_KD))
        self.painter = ConvDecoder(groups * vectors_KD.shape[1], widths, blocks)

    def forward(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> float [B, 3, img_px, img_px], about [-1, 1]; N = groups * grid² for any grid."""
        return self.painter(latents(self.vectors, codes_BN, self.groups))


class OneStepDecoder(Decoder):
    """Draws no noise."""

    draws = False
    any_size = True

    def paint(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        return self.network(codes_BN)


def load_onestep(folder: Path, config: dict[str, Any], device: torch.device | str) -> OneStepDecoder:
    """The decoder artefact in `folder`."""
    state = artefact.load_tensors(folder, "model.safetensors")
    network = OneStep(state["vectors"], *(config[key] for key in ("groups", "widths", "blocks")))
    network.load_state_dict(state)
    return OneStepDecoder(network, config, device)
