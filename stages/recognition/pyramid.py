"""Maps at 4, 2, 1 and 1/2 times the grid of patches, from one block (ViTDet) or from four, a level each (BEiT)."""

import torch
from torch import Tensor, nn

from stages.core import UserError
from stages.recognition.params import LEVELS

DOUBLINGS = (2, 1, 0, -1)  # of the grid's side, by level; fewer levels are the last ones


class Scales(nn.Module):
    """Maps [B, D, g, g] -> levels of 4 g, 2 g, g and g / 2 per side, of `dims` channels."""

    def __init__(self, dims: list[int], levels: int = LEVELS):
        super().__init__()
        if len(dims) not in (1, levels):
            raise UserError(f"{len(dims)} blocks: a pyramid of {levels} levels takes 1, or {levels} from early to late")
        wide = dims * levels if len(dims) == 1 else dims
        made = [scaled(width, doublings) for width, doublings in zip(wide, DOUBLINGS[-levels:], strict=True)]
        self.levels, self.dims = nn.ModuleList(level for level, _ in made), [width for _, width in made]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        given = maps * len(self.levels) if len(maps) == 1 else maps
        return [level(one) for level, one in zip(self.levels, given, strict=True)]


def scaled(width: int, doublings: int) -> tuple[nn.Module, int]:
    """A module that doubles the side of a map so many times, and the channels after it: half as many each time."""
    if doublings <= 0:
        return nn.MaxPool2d(2, ceil_mode=True) if doublings else nn.Identity(), width
    half = max(8, width // 2)
    first = nn.ConvTranspose2d(width, half, 2, 2)
    if doublings == 1:
        return first, half
    second, rest = scaled(half, doublings - 1)
    return nn.Sequential(first, nn.GroupNorm(1, half), nn.GELU(), second), rest


class Pyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022): every level brought to `width` channels."""

    out_channels: int  # torchvision asks for it

    def __init__(self, dims: list[int], width: int, levels: int):
        super().__init__()
        self.scales, self.out_channels = Scales(dims, levels), width
        self.out = nn.ModuleList(nn.Sequential(
            nn.Conv2d(dim, width, 1, bias=False), nn.GroupNorm(1, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(1, width),
        ) for dim in self.scales.dims)  # fmt: skip

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [out(level) for out, level in zip(self.out, self.scales(maps), strict=True)]


def joined(maps: list[Tensor]) -> Tensor:
    """The maps of all chosen blocks, [B, sum of D, grid, grid]."""
    return torch.cat(maps, 1)
