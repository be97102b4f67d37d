"""Features that kmeans and cluster quantize: patches of some blocks of a frozen encoder, mapped by a feature map.

A codebook artifact holds its encoder in `encoder/`, and the map, if there is one, in `projection.safetensors`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import artifact
from stages.core.networks import load_tensors
from stages.encoder.encoder import Encoder, load_encoder

ENCODER, PROJECTION = "encoder", "projection.safetensors"


class FeatureMap(nn.Module):
    """An affine map for each of G codebooks: (feature - shift) * weight, or (feature - shift) @ weight for a matrix."""

    shift: Tensor  # float32 [G, D]
    weight: Tensor  # float32 [G, D], or [G, D, d]

    def __init__(self, shift_GD: Tensor, weight: Tensor):
        super().__init__()
        self.register_buffer("shift", shift_GD)
        self.register_buffer("weight", weight)

    def of(self, codebook: int, features: Tensor) -> Tensor:
        """float32 [..., D] -> [..., d] by the map of one codebook."""
        centered, weight = features - self.shift[codebook], self.weight[codebook]
        return centered @ weight if weight.ndim == 2 else centered * weight

    def forward(self, features: Tensor) -> Tensor:
        """float32 [B, G * P, D], codebook by codebook -> [B, G * P, d]."""
        parts = features.unflatten(1, (len(self.shift), -1)).unbind(1)
        return torch.cat([self.of(codebook, part) for codebook, part in enumerate(parts)], 1)


class EncoderFeatures(nn.Module):
    """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D], row-major, from `blocks`, then mapped by `feature_map`.

    `separate`: the blocks' features one after the other, N = blocks * grid²; else concatenated in D.
    """

    def __init__(
        self, encoder: Encoder, blocks: list[int], final_norm: bool, separate: bool = False,
        feature_map: FeatureMap | None = None,
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.blocks, self.final_norm = encoder, blocks, final_norm
        self.separate, self.feature_map = separate, feature_map

    def forward(self, pixels: Tensor) -> Tensor:
        layers = self.encoder(pixels, blocks=self.blocks, final_norm=self.final_norm)
        features = torch.cat(layers, 1 if self.separate else 2)
        return self.feature_map(features) if self.feature_map else features


def load(folder: Path, config: dict[str, Any]) -> EncoderFeatures:
    """What turns images into features for the codebook artifact in `folder`."""
    artifact.checked(folder, f"{ENCODER}/{artifact.CONFIG}")
    encoder, feature_map = load_encoder(folder / ENCODER), None
    if PROJECTION in config["files"]:
        state = load_tensors(folder, PROJECTION)
        feature_map = FeatureMap(state["shift"], state["weight"])
    return EncoderFeatures(encoder, config["blocks"], config["final_norm"], config["layers"] == "separate", feature_map)
