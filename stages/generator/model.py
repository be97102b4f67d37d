"""The transformer over codes, causal for `ar` and bidirectional for `masked`.

Sequence: one class position, then the N codes in raster order; the class "none" makes the model unconditional.
B = batch, T = positions, D = width, H = heads, K = codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artefact

KIND = "generator"

Cache = list[tuple[Tensor, Tensor]]  # a layer's keys and values [B, H, N, D/H], filled from the left


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
        """With a cache, x holds the positions from `start` on, and earlier keys and values come from the cache."""
        q, k, v = self.qkv(self.norm_attention(x_BTD)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        stop = start + x_BTD.shape[1]
        if cache is not None:
            cache[0][:, :, start:stop], cache[1][:, :, start:stop] = k, v
            k, v = cache[0][:, :, :stop], cache[1][:, :, :stop]
        # A single newest position may look at everything before it: no mask is needed then.
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and q.shape[2] > 1)
        x_BTD = x_BTD + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_BTD + self.drop(self.mlp(self.norm_mlp(x_BTD)))


class TokenTransformer(nn.Module):
    """Codes and a class -> logits over the codes.

    causal: position t sees the class and codes before t, and predicts code t.
    otherwise: every position sees everything; the code `num_codes` means "masked".
    """

    def __init__(
        self,
        *,
        num_codes: int,
        num_classes: int,
        num_patches: int,
        dim: int,
        depth: int,
        heads: int,
        dropout: float,
        causal: bool,
    ):
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches, self.causal = num_codes, num_classes, num_patches, causal
        self.embed_code = nn.Embedding(num_codes if causal else num_codes + 1, dim)
        self.embed_class = nn.Embedding(num_classes + 1, dim)
        self.embed_position = nn.Parameter(torch.empty(num_patches + 1, dim))
        blocks = [Block(dim, heads, dropout, causal) for _ in range(depth)]
        self.heads, self.blocks = heads, nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.drop = nn.Dropout(dropout)
        self.apply(_init)
        nn.init.normal_(self.embed_position, std=0.02)
        for block in blocks:  # residual branches start small, as in GPT-2
            nn.init.normal_(block.out.weight, std=0.02 / (2 * depth) ** 0.5)
            nn.init.normal_(block.mlp[2].get_parameter("weight"), std=0.02 / (2 * depth) ** 0.5)

    def forward(self, labels_B: Tensor, codes_BT: Tensor) -> Tensor:
        """labels int64 [B] (num_classes: none), codes int64 [B, T] -> logits float32 [B, N, K].

        causal: T = N - 1 or N (a last code is not looked at). Bidirectional: T = N.
        """
        if self.causal:
            codes_BT = codes_BT[:, : self.num_patches - 1]
        x = torch.cat([self.embed_class(labels_B)[:, None], self.embed_code(codes_BT)], 1)
        hidden = self._run(x, None, 0)
        return self.head(hidden if self.causal else hidden[:, 1:]).float()

    def next_logits(self, newest_B: Tensor, position: int, cache: Cache) -> Tensor:
        """Logits [B, K] of code `position`, given the newest input: the class at position 0, else code position - 1."""
        table = self.embed_code if position else self.embed_class
        return self.head(self._run(table(newest_B)[:, None], cache, position)[:, -1]).float()

    def new_cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` sequences."""
        shape = (batch, self.heads, self.num_patches, self.embed_position.shape[1] // self.heads)
        return [(self.embed_position.new_zeros(shape), self.embed_position.new_zeros(shape)) for _ in self.blocks]

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        x_BTD = self.drop(x_BTD + self.embed_position[start : start + x_BTD.shape[1]])
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cache[index] if cache is not None else None, start)
        return self.norm(x_BTD)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def load_transformer(folder: Path, device: torch.device | str) -> tuple[TokenTransformer, dict[str, Any]]:
    """The generator artefact's network, in evaluation mode, and its config."""
    from safetensors.torch import load_file

    config = artefact.read_config(folder, KIND)
    network = TokenTransformer(**config["shape"], causal=config["name"] == "ar")
    network.load_state_dict(load_file(artefact.checked(folder, "model.safetensors")))
    return network.to(device).eval(), config
