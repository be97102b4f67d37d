"""The transformer over codes, causal for `ar` and bidirectional for `masked`.

Sequence: one class position, then the N codes in raster order; the class "none" makes the model unconditional.
B = batch, T = positions, D = width, K = codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import artefact
from stages.core.transformer import Block, Cache, new_cache, run, shrink_branches, start_weights

KIND = "generator"


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
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.drop = nn.Dropout(dropout)
        self.apply(start_weights)
        nn.init.normal_(self.embed_position, std=0.02)
        shrink_branches(self.blocks)

    def forward(self, labels_B: Tensor, codes_BT: Tensor, at_BN: Tensor | None = None) -> Tensor:
        """labels int64 [B] (num_classes: none), codes int64 [B, T] -> logits float32 [B, N, K].

        causal: T = N - 1 or N (a last code is not looked at). Bidirectional: T = N. With a bool `at_BN` only the
        logits of its M true positions, [M, K], row-major.
        """
        if self.causal:
            codes_BT = codes_BT[:, : self.num_patches - 1]
        x = torch.cat([self.embed_class(labels_B)[:, None], self.embed_code(codes_BT)], 1)
        hidden = self._run(x, None, 0)[:, not self.causal :]
        return self.head(hidden if at_BN is None else hidden[at_BN]).float()

    def next_logits(self, newest_B: Tensor, position: int, cache: Cache) -> Tensor:
        """Logits [B, K] of code `position`, given the newest input: the class at position 0, else code position - 1."""
        table = self.embed_code if position else self.embed_class
        return self.head(self._run(table(newest_B)[:, None], cache, position)[:, -1]).float()

    def new_cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` sequences."""
        return new_cache(self.blocks, batch, self.num_patches)

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        x_BTD = self.drop(x_BTD + self.embed_position[start : start + x_BTD.shape[1]])
        return self.norm(run(self.blocks, x_BTD, cache, start))


def load_transformer(folder: Path, device: torch.device | str) -> tuple[TokenTransformer, dict[str, Any]]:
    """The generator artefact's network, in evaluation mode, and its config."""
    config = artefact.read_config(folder, KIND)
    network = TokenTransformer(**config["shape"], causal=config["name"] == "ar")
    network.load_state_dict(artefact.load_tensors(folder, "model.safetensors"))
    return network.to(device).eval(), config
