"""The transformer's block, with room for keys and values already known, and how its weights start.

B = batch, T = positions, D = width, H = heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

Cache = list[tuple[Tensor, Tensor]]  # a block's keys and values [B, H, T, D/H], filled from the left


class Block(nn.Module):
    """Pre-norm attention and MLP (GPT-2's block)."""

    def __init__(self, dim: int, heads: int, dropout: float, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, cache: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
        """With a cache, x holds the positions from `start` on, and earlier keys and values come from the cache.

        A causal block takes one position at a time once there are earlier ones.
        """
        q, k, v = self.qkv(self.norm_attention(x_BTD)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        stop = start + x_BTD.shape[1]
        if cache is not None:
            cache[0][:, :, start:stop], cache[1][:, :, start:stop] = k, v
            k, v = cache[0][:, :, :stop], cache[1][:, :, :stop]
        # A single newest position may look at everything before it: no mask is needed then.
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and q.shape[2] > 1)
        x_BTD = x_BTD + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_BTD + self.drop(self.mlp(self.norm_mlp(x_BTD)))


def run(blocks: nn.ModuleList, x_BTD: Tensor, cache: Cache | None = None, start: int = 0) -> Tensor:
    """All blocks in turn; float [B, T, D] -> [B, T, D]."""
    for index, block in enumerate(blocks):
        x_BTD = block(x_BTD, cache[index] if cache is not None else None, start)
    return x_BTD


def new_cache(blocks: nn.ModuleList, batch: int, positions: int) -> Cache:
    """Room for the keys and values of `batch` sequences."""
    cache = []
    for block in blocks:
        assert isinstance(block, Block)
        weight = block.out.weight
        shape = (batch, block.heads, positions, weight.shape[0] // block.heads)
        cache.append((weight.new_zeros(shape), weight.new_zeros(shape)))
    return cache


def start_weights(module: nn.Module) -> None:
    """For `Module.apply`: linear maps and tables start at N(0, 0.02²), biases at 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def shrink_branches(blocks: nn.ModuleList) -> None:
    """Residual branches start small, as in GPT-2."""
    std = 0.02 / (2 * len(blocks)) ** 0.5
    for block in blocks:
        assert isinstance(block, Block)
        nn.init.normal_(block.out.weight, std=std)
        nn.init.normal_(block.mlp[2].get_parameter("weight"), std=std)
