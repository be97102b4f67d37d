"""What a transformer over codes knows of their places in the grid: rotary positions and local mixing.

B = batch, T = positions (`prefix_length` of the class or the caption, then N codes in raster order, grid by grid),
D = width, d = D / heads. Position t holds code t - prefix_length. Causal: it predicts the code after that one;
otherwise the same.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

THETA = 100.0  # of the longest wave, as rotary vision transformers use for small grids (Heo et al. 2024)


def rotary_tables(grid: int, num_patches: int, head_dim: int, causal: bool, prefix_length: int = 1) -> Tensor:
    """float [2, 2, T, d]: of queries and keys, cos and signed sin of the angles of their row and column.

    A query has the place that it predicts, a key the place that it holds; other angles are 0.
    """
    places = torch.arange(num_patches) % grid**2
    waves = THETA ** -(torch.arange(head_dim // 4) / (head_dim // 4))
    angles = torch.cat([(places // grid)[:, None] * waves, (places % grid)[:, None] * waves], 1)
    held = F.pad(angles, (0, 0, prefix_length, 0))
    predicted = F.pad(angles, (0, 0, prefix_length - 1, 1)) if causal else held
    return torch.stack([cos_sin(predicted), cos_sin(held)])


def cos_sin(angles: Tensor) -> Tensor:
    """float [T, d / 2] -> [2, T, d], as `rotate` of stages/core/transformer.py takes them."""
    return torch.stack([angles.cos().tile(2), torch.cat([-angles.sin(), angles.sin()], 1)])


class LocalMixing(nn.Module):
    """Adds a depth-wise convolution of the codes around each place; starts as the identity.

    Causal: of the codes that come before the predicted one in raster order, in the rows above and in its own.
    """

    def __init__(self, dim: int, side: int, grid: int, num_patches: int, causal: bool, prefix_length: int = 1):
        super().__init__()
        self.side, self.grid, self.reach, self.causal = side, grid, side // 2, causal
        self.weight = nn.Parameter(torch.zeros(dim, self.reach * (side + 1) if causal else side**2))
        self.prefix_length, self.near = prefix_length, neighbors(grid, num_patches, side) if causal else []

    def forward(self, x_BTD: Tensor, held_BTD: Tensor | None = None, start: int = 0) -> Tensor:
        """float [B, T, D] -> [B, T, D]: the first positions, or the newest alone, of number `start`.

        `held` keeps the inputs of all positions so far, float [B, T, D].
        """
        if held_BTD is not None:
            held_BTD[:, start : start + x_BTD.shape[1]] = x_BTD
        if held_BTD is not None and x_BTD.shape[1] == 1:
            return self.newest(x_BTD, held_BTD, start)
        codes = x_BTD[:, self.prefix_length :]
        later = int(self.causal)  # one place more is predicted than held
        filled = F.pad(codes, (0, 0, 0, later + -(codes.shape[1] + later) % self.grid**2))
        planes = filled.unflatten(1, (-1, self.grid, self.grid)).flatten(0, 1).permute(0, 3, 1, 2)
        with nullcontext() if planes.is_meta else torch.autocast(planes.device.type, enabled=False):
            # in fp32: its backward pass takes four times as long in bf16; `meta`, of semtok cost, knows no autocast
            mixed = F.conv2d(self.padded(planes.float()), self.kernel(), groups=planes.shape[1])
        rows = mixed.permute(0, 2, 3, 1).reshape(len(codes), -1, codes.shape[2])
        return x_BTD + F.pad(rows, (0, 0, self.prefix_length - later, 0))[:, : x_BTD.shape[1]]

    def padded(self, planes: Tensor) -> Tensor:
        """[B, D, grid, grid] with room for the kernel."""
        return F.pad(planes, (self.reach, self.reach, self.reach, 0 if self.causal else self.reach))

    def kernel(self) -> Tensor:
        """[D, 1, rows, side]: causal: the rows above and the left half of the own one."""
        rows = self.reach + 1 if self.causal else self.side
        return F.pad(self.weight, (0, rows * self.side - self.weight.shape[1])).unflatten(1, (1, rows, self.side))

    def newest(self, x_B1D: Tensor, held_BTD: Tensor, position: int) -> Tensor:
        """The same of one position, causal."""
        places, taps = self.near[position + 1 - self.prefix_length]
        return x_B1D + (held_BTD[:, self.prefix_length + places] * self.weight.T[taps]).sum(1, keepdim=True)


def neighbors(grid: int, num_patches: int, side: int) -> list[tuple[Tensor, Tensor]]:
    """Per place those nearby [M] whose codes come before its own, and their numbers [M] among the weights."""
    reach, found = side // 2, []
    offsets = [(down, right) for down in range(-reach, 1) for right in range(-reach, reach + 1)][: reach * (side + 1)]
    for place in range(num_patches):
        row, col = divmod(place % grid**2, grid)
        inside = [0 <= row + down and 0 <= col + right < grid for down, right in offsets]
        taps = [tap for tap, here in enumerate(inside) if here]
        places = [place + offsets[tap][0] * grid + offsets[tap][1] for tap in taps]
        found.append((torch.tensor(places, dtype=torch.long), torch.tensor(taps, dtype=torch.long)))
    return found
