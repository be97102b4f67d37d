"""Convolutional networks and perceptual losses that several stages share, and weights on disk.

widths[0] is the width on the grid of codes, widths[i] that after i
doublings: grid * 2^(len(widths) - 1) = img_px.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError
from stages.core.artifact import checked
from stages.core.params import Precision


def load_tensors(artifact: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file in an artifact, on the CPU, after its bytes were compared with the hash."""
    return load_file(checked(artifact, name))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device as .safetensors."""
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


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


class ConvDecoder(nn.Module):
    """float [B, D, grid, grid] -> float [B, 3, img_px, img_px], about [-1, 1], doubling the side level by level."""

    def __init__(self, dim: int, widths: list[int], blocks: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 1)]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], width, 3, padding=1)]
            layers += [ResBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU())
        self.to_pixels = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        return self.to_pixels(self.layers(grid))


class ConvEncoder(nn.Module):
    """float [B, 3, img_px, img_px] -> float [B, N, D], one vector per grid position, row-major."""

    def __init__(self, dim: int, widths: list[int], blocks: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += [ResBlock(widths[level]) for _ in range(blocks)]
            if level:
                layers += [nn.Conv2d(widths[level], widths[level - 1], 3, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], dim, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels).flatten(2).transpose(1, 2)


def to_grid(rows: Tensor, grid: int) -> Tensor:
    """[B, N, D] -> [B, G * D, grid, grid]; N = G * grid², the codes of a position concatenated along channels."""
    groups = rows.shape[1] // grid**2
    return rows.unflatten(1, (groups, grid, grid)).permute(0, 1, 4, 2, 3).flatten(1, 2)


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
