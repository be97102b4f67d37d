"""Reconstruction losses: pixels, and distances in the feature space of a frozen network."""

import warnings
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError
from stages.core.params import Precision


def pixel_loss(kind: str, pixels: Tensor, real: Tensor) -> Tensor:
    """Mean absolute (l1) or squared (l2) difference of pixels in [-1, 1]."""
    return F.l1_loss(pixels, real) if kind == "l1" else F.mse_loss(pixels, real)


class EncoderPerceptual(nn.Module):
    """Distance in a frozen encoder's feature space: 1 - cosine of patch features, mean over patches and blocks.

    `encoder(pixels, blocks=[…], final_norm=True, precision=…)` gives float [B, N, D] per block.
    """

    def __init__(self, encoder: Any, blocks: list[int], precision: Precision | None = None):
        super().__init__()
        self.encoder, self.blocks, self.precision = encoder, blocks, precision

    def forward(self, pixels: Tensor, real: Tensor) -> Tensor:
        """float [B, 3, H, W] twice -> scalar."""
        return self.of_each(pixels, real).mean()

    def of_each(self, pixels: Tensor, real: Tensor) -> Tensor:
        """The distance per image, float [B]."""
        with torch.no_grad():
            wanted = self.features(real)
        found = self.features(pixels)
        blocks = zip(found, wanted, strict=True)
        return torch.stack([1 - F.cosine_similarity(f, w, dim=-1).mean(1) for f, w in blocks]).mean(0)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """float [B, 3, H, W] -> float [B, N, D] per block."""
        return self.encoder(pixels, blocks=self.blocks, final_norm=True, precision=self.precision)


class LpipsPerceptual(nn.Module):
    """LPIPS (Zhang et al. 2018) with VGG-16; the linear weights come with the package, VGG's from a local file."""

    def __init__(self, vgg16_file: str):
        import lpips  # here, since it takes as long to import as torch, and few trainings use it

        super().__init__()
        with warnings.catch_warnings():  # lpips calls torchvision in a deprecated way
            warnings.simplefilter("ignore", UserWarning)
            self.net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
        load_vgg16(self.net.net, vgg16_file)
        self.net.requires_grad_(False)

    def forward(self, pixels: Tensor, real: Tensor) -> Tensor:
        """float [B, 3, H, W] twice -> scalar."""
        return self.net(pixels, real).mean()


def load_vgg16(slices: nn.Module, vgg16_file: str) -> None:
    """Copy torchvision's VGG-16 `features.<i>.*` tensors into lpips' slices, which use the same layer numbers."""
    try:
        given = load_file(vgg16_file)
    except SafetensorError as error:
        raise UserError(f"{vgg16_file}: not a safetensors file: {error}") from None
    wanted = slices.state_dict()
    renamed = {name: given.get("features." + name.split(".", 1)[1]) for name in wanted}
    bad = [name for name, tensor in renamed.items() if tensor is None or tensor.shape != wanted[name].shape]
    if bad:
        raise UserError(
            f"{vgg16_file}: not torchvision's VGG-16: {len(bad)} of {len(wanted)} tensors missing or of another shape"
        )
    slices.load_state_dict(renamed)
