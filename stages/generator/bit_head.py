"""A causal transformer that predicts the bits of the next code instead of one logit per code (BAR, Yu et al. 2026).

A code of K is its number's b = ⌈log2 K⌉ binary digits, the lowest first; where all of fsq's levels are powers of two,
these are the digits of its levels. A small network fills masked bits from the transformer's state and the known bits.
B = batch, N = codes per image, b = bits, W = width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.transformer import SwiGlu, start_weights
from stages.generator.transformer import TokenTransformer

MASKED = 2  # instead of 0 or 1


def bits_of(codes: Tensor, bits: int) -> Tensor:
    """int64 [...] -> int64 [..., b], 0 or 1, the lowest bit first."""
    return codes[..., None] >> torch.arange(bits, device=codes.device) & 1


def codes_of(bits: Tensor) -> Tensor:
    """int64 [..., b] -> int64 [...]: the smallest code with these bits, of which some may be masked."""
    return ((bits == 1).long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


class AdaptiveBlock(nn.Module):
    """A residual SwiGLU MLP whose shift, scale and gate a condition decides (adaLN-zero); starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        hidden = -(-8 * width // 24) * 8
        self.norm, self.change = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * hidden), SwiGlu(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """float [..., W], [..., W] -> [..., W]."""
        shift, scale, gate = self.change(condition).chunk(3, -1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class BitHead(nn.Module):
    """States and bits, of which some are masked -> logits of 0 and 1 of every bit."""

    def __init__(self, width: int, bits: int, depth: int = 3):
        super().__init__()
        each = -(-width // bits)
        self.embed, self.project = nn.Embedding(3, each), nn.Linear(bits * each, width)
        # One vector per number of masked bits; BAR has Fourier features of their share.
        self.count, self.state = nn.Embedding(bits + 1, width), nn.Linear(width, width)
        self.layers = nn.ModuleList(AdaptiveBlock(width) for _ in range(depth))
        self.norm, self.change = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 2 * bits)
        self.apply(start_weights)
        for change in (self.change, *(module.change for module in self.layers if isinstance(module, AdaptiveBlock))):
            nn.init.zeros_(change.weight)

    def forward(self, states: Tensor, bits: Tensor) -> Tensor:
        """float [..., W], int64 [..., b] -> float32 [..., b, 2]."""
        condition = F.silu(self.state(states) + self.count((bits == MASKED).sum(-1)))
        x = self.project(self.embed(bits).flatten(-2))
        for layer in self.layers:
            x = layer(x, condition)
        shift, scale = self.change(condition).chunk(2, -1)
        return self.out(self.norm(x) * (1 + scale) + shift).unflatten(-1, (-1, 2)).float()


class BitTransformer(nn.Module):
    """A causal `TokenTransformer` whose outputs are states, and a head for the bits of the codes."""

    def __init__(self, *, num_codes: int, num_classes: int, num_patches: int, dim: int, **rest: Any):
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches = num_codes, num_classes, num_patches
        sizes: dict[str, Any] = {
            "num_codes": num_codes,
            "num_classes": num_classes,
            "num_patches": num_patches,
            "dim": dim,
        }
        self.states = TokenTransformer(**sizes, **rest)
        self.states.head = nn.Identity()
        self.bits = max(1, (num_codes - 1).bit_length())
        self.bit_head = BitHead(dim, self.bits)

    @property
    def device(self) -> torch.device:
        return self.states.device

    def forward(self, labels_B: Tensor, codes_BN: Tensor, bits_BNb: Tensor | None = None) -> Tensor:
        """labels int64 [B], codes int64 [B, N], bits int64 [B, N, b] -> logits of the bits, float32 [B, N, b, 2].

        Without bits, all are masked.
        """
        states_BND = self.states(labels_B, codes_BN)
        if bits_BNb is None:
            bits_BNb = torch.full((*states_BND.shape[:2], self.bits), MASKED, device=codes_BN.device)
        return self.bit_head(states_BND, bits_BNb)

    def possible(self, logits: Tensor, bits: Tensor) -> Tensor:
        """The logits [..., b, 2] where a 1 that gives no code below `num_codes` is impossible."""
        values = 1 << torch.arange(self.bits, device=bits.device)
        beyond = (codes_of(bits)[..., None] + values >= self.num_codes) & (bits == MASKED)
        return torch.stack([logits[..., 0], logits[..., 1].masked_fill(beyond, -torch.inf)], -1)
