"""Rows from a frozen encoder: the patch features of a block, as k-means and Cluster quantise them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.errors import UserError
from stages.encoder.model import Encoder, load_encoder


class FrozenRows(nn.Module):
    """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D], row-major."""

    def __init__(self, encoder: Encoder, block: int, final_norm: bool):
        super().__init__()
        self.encoder, self.block, self.final_norm = encoder, block, final_norm

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, blocks=[self.block], final_norm=self.final_norm)[0]


def load_frozen(folder: Path, config: dict[str, Any], device: torch.device | str) -> FrozenRows:
    """The very encoder that the codebook in `folder` was fitted on; another one in its place is an error."""
    encoder = folder / config["encoder"]
    if artefact.digest(encoder) != config["inputs"]["encoder"]:
        raise UserError(f"{encoder}: not the encoder that {folder} was fitted on. Run `dvc repro codebook`.")
    return FrozenRows(load_encoder(encoder, device), config["block"], config["final_norm"])
