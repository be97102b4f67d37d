"""The one-step pixel decoder: codes -> images.

decoder = load_decoder("data/decoder/kmeans-onestep")
images_BHWC = decoder.decode(codes_BN)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.convnet import ConvDecoder, to_grid
from stages.core.errors import UserError
from stages.core.pixels import to_uint8

if TYPE_CHECKING:
    import numpy as np

KIND = "decoder"


class OneStep(nn.Module):
    """Code vectors and the convolutions that paint them.

    The vectors are part of the weights, standardised over the codebook, and do not learn.
    """

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, grid: int, groups: int, widths: list[int], blocks: int):
        super().__init__()
        self.grid, self.groups = grid, groups
        scaled = (vectors_KD - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0).mean().clamp(min=1e-6)
        self.register_buffer("vectors", scaled.float())
        self.painter = ConvDecoder(groups * vectors_KD.shape[1], widths, blocks)

    def forward(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> float [B, 3, img_px, img_px], about [-1, 1]; N = groups * grid²."""
        return self.painter(to_grid(self.vectors[codes_BN], self.grid))


class Decoder:
    """A trained decoder with its facts: which tokenizer's codes it takes, how large its images are."""

    def __init__(self, network: OneStep, config: dict[str, Any]):
        self.network, self.config = network.eval(), config
        self.num_codes: int = len(network.vectors)
        self.num_patches: int = network.groups * network.grid**2

    @torch.inference_mode()
    def decode(self, codes: np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """Codes of any integer type [B, N] -> uint8 [B, H, W, 3]."""
        import numpy as np

        codes = codes if isinstance(codes, Tensor) else torch.from_numpy(np.asarray(codes).astype(np.int64))
        if (
            codes.ndim != 2
            or codes.shape[1] != self.num_patches
            or (len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes)
        ):
            raise UserError(
                f"codes: expected integers below {self.num_codes} of shape [B, {self.num_patches}], "
                f"got {list(codes.shape)}"
            )
        parts = [self.network(part) for part in codes.to(self.network.vectors.device).split(batch_size)]
        return np.concatenate([to_uint8(part) for part in parts])


def load_decoder(folder: str | Path, device: torch.device | str = "cpu") -> Decoder:
    """The decoder artefact, with its averaged weights."""
    from safetensors.torch import load_file

    config = artefact.read_config(Path(folder), KIND)
    state = load_file(artefact.checked(Path(folder), "model.safetensors"))
    network = OneStep(state["vectors"], *(config[key] for key in ("grid", "groups", "widths", "blocks")))
    network.load_state_dict(state)
    return Decoder(network.to(device), config)
