"""Rows from a frozen encoder: the patch features of one block or of several, as k-means and Cluster quantise them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.errors import UserError
from stages.encoder.model import Encoder, load_encoder

PROJECTION = "projection.safetensors"


class RowMap(nn.Module):
    """A map of rows for each of G groups: (row - shift) * weight, or (row - shift) @ weight where it has a matrix."""

    shift: Tensor  # float32 [G, D]
    weight: Tensor  # float32 [G, D], or [G, D, d]

    def __init__(self, shift_GD: Tensor, weight: Tensor):
        super().__init__()
        self.register_buffer("shift", shift_GD)
        self.register_buffer("weight", weight)

    def of(self, group: int, rows: Tensor) -> Tensor:
        """float32 [..., D] -> [..., d] by the map of one group."""
        centred, weight = rows - self.shift[group], self.weight[group]
        return centred @ weight if weight.ndim == 2 else centred * weight

    def forward(self, rows: Tensor) -> Tensor:
        """float32 [B, G * P, D], one group after the other -> [B, G * P, d]."""
        groups = rows.unflatten(1, (len(self.shift), -1)).unbind(1)
        return torch.cat([self.of(group, part) for group, part in enumerate(groups)], 1)


class FrozenRows(nn.Module):
    """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D], row-major, from `blocks`, then mapped by `row_map`.

    `separate`: the rows of one block after those of the other, N = blocks * grid²; else side by side in D.
    """

    def __init__(
        self,
        encoder: Encoder,
        blocks: list[int],
        final_norm: bool,
        separate: bool = False,
        row_map: RowMap | None = None,
    ):
        super().__init__()
        self.encoder, self.blocks, self.final_norm = encoder, blocks, final_norm
        self.separate, self.row_map = separate, row_map

    def forward(self, pixels: Tensor) -> Tensor:
        layers = self.encoder(pixels, blocks=self.blocks, final_norm=self.final_norm)
        rows = torch.cat(layers, 1 if self.separate else 2)
        return self.row_map(rows) if self.row_map else rows


def load_frozen(folder: Path, config: dict[str, Any], device: torch.device | str) -> FrozenRows:
    """The very encoder that the codebook in `folder` was fitted on; another one in its place is an error."""
    path = folder / config["encoder"]
    if artefact.digest(path) != config["inputs"]["encoder"]:
        raise UserError(f"{path}: not the encoder that {folder} was fitted on. Run `dvc repro codebook`.")
    row_map = load_row_map(folder, device) if PROJECTION in config["files"] else None
    encoder = load_encoder(path, device)
    return FrozenRows(encoder, config["blocks"], config["final_norm"], config["layers"] == "separate", row_map)


def load_row_map(folder: Path, device: torch.device | str) -> RowMap:
    """The map of rows inside a codebook artefact."""
    state = artefact.load_tensors(folder, PROJECTION)
    return RowMap(state["shift"], state["weight"]).to(device)
