"""The one-step pixel decoder: codes -> images.

decoder = load_decoder("data/decoder/kmeans-onestep")
images_BHWC = decoder.decode(codes_BN)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artefact
from stages.core.errors import UserError
from stages.core.pixels import to_uint8

if TYPE_CHECKING:
    import numpy as np

KIND = "decoder"


class ResBlock(nn.Module):
    """Pre-activation residual block; its last convolution starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class OneStep(nn.Module):
    """Convolutions from the grid of code vectors up to pixels, doubling the side level by level.

    widths[0] is the width on the code grid, widths[i] after i doublings: grid * 2^(len(widths) - 1) = img_px.
    The code vectors are part of the weights, standardised over the codebook, and do not learn.
    """

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, grid: int, widths: list[int], blocks: int):
        super().__init__()
        self.grid = grid
        scaled = (vectors_KD - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0).mean().clamp(min=1e-6)
        self.register_buffer("vectors", scaled.float())
        layers: list[nn.Module] = [nn.Conv2d(vectors_KD.shape[1], widths[0], 1)]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], width, 3, padding=1)]
            layers += [ResBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU())
        self.to_pixels = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, codes_BN: Tensor) -> Tensor:
        """int64 [B, N] -> float [B, 3, img_px, img_px], about [-1, 1]."""
        grid = self.vectors[codes_BN].transpose(1, 2).unflatten(2, (self.grid, -1))
        return self.to_pixels(self.layers(grid))


class Decoder:
    """A trained decoder with its facts: which tokenizer's codes it takes, how large its images are."""

    def __init__(self, network: OneStep, config: dict[str, Any]):
        self.network, self.config = network.eval(), config
        self.num_codes: int = len(network.vectors)
        self.num_patches: int = network.grid**2

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
    network = OneStep(state["vectors"], config["grid"], config["widths"], config["blocks"])
    network.load_state_dict(state)
    return Decoder(network.to(device), config)


class PatchDiscriminator(nn.Module):
    """Strided convolutions to one score a patch of pixels (PatchGAN, Isola et al. 2017)."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] -> [B, 1, H/4, W/4]."""
        return self.layers(pixels)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of relu(1 - D(real)) and relu(1 + D(fake))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
