"""The transformer over codes in any order, which predicts several codes at once.

Content: the class, then codes in the order in which they become known; each attends to itself and to what came before.
Queries: one per code to predict, which carries that code's place (RAR's target-aware position) and attends to known
content alone, never to another query. Both go through the same blocks, as in XLNet (Yang et al. 2019). A query's logits
depend on its place and on what is known, not on how many are asked at once. So training, with one code at a time, is
exact for groups of any size, and no cached key or value ever changes.
B = batch, C = content, Q = queries, D = width, K = codes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.transformer import Block, Cache, new_cache, shrink_branches, start_weights
from stages.generator.places import rotary_tables
from stages.generator.transformer import Positions


class RandomOrderTransformer(nn.Module):
    """Known codes, their places and a class -> logits over the codes of other places."""

    embed_position: nn.Parameter | None
    turns: Tensor | None  # rotary angles of the class and of all places

    def __init__(
        self, *, num_codes: int, num_classes: int, num_patches: int, grid: int, dim: int, depth: int, heads: int,
        dropout: float, positions: Positions = "learned", **block: Any,
    ):  # fmt: skip
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches = num_codes, num_classes, num_patches
        self.embed_code, self.embed_class = nn.Embedding(num_codes, dim), nn.Embedding(num_classes + 1, dim)
        self.query = nn.Parameter(torch.empty(dim))
        learned = nn.Parameter(torch.empty(num_patches + 1, dim)) if positions != "rotary" else None
        self.register_parameter("embed_position", learned)
        turns = rotary_tables(grid, num_patches, dim // heads, causal=False) if positions != "learned" else None
        self.register_buffer("turns", turns, persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, True, **block) for _ in range(depth))
        self.norm, self.head, self.drop = nn.LayerNorm(dim), nn.Linear(dim, num_codes), nn.Dropout(dropout)
        self.apply(start_weights)
        for vectors in (self.query, learned):
            if vectors is not None:
                nn.init.normal_(vectors, std=0.02)
        shrink_branches(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.embed_class.weight.device

    def forward(self, labels_B: Tensor, codes_BN: Tensor, order_BN: Tensor | None = None) -> Tensor:
        """labels int64 [B] (num_classes: none), codes int64 [B, N] -> logits float32 [B, N, K].

        `order`, int64 [B, N]: every row a permutation of the places; without it, raster order. Logits t are those of
        the code at place order[t], given the codes at places order[:t].
        """
        if order_BN is None:
            order_BN = torch.arange(self.num_patches, device=codes_BN.device).expand_as(codes_BN)
        earlier = torch.ones(self.num_patches, self.num_patches, dtype=torch.bool, device=codes_BN.device).tril()
        held_BC = order_BN[:, :-1]
        content = self._content(labels_B, codes_BN.gather(1, held_BC), 0)
        return self._logits(content, held_BC, order_BN, earlier.repeat(2, 1), None, 0)

    def next_logits(
        self, labels_B: Tensor, codes_BC: Tensor, held_BC: Tensor, asked_BQ: Tensor, cache: Cache, start: int
    ) -> Tensor:
        """Logits float32 [B, Q, K] of the codes at places `asked`, given all content so far.

        The cache holds `start` positions of it and takes up those of this call: the class if `start` is 0, then codes
        int64 [B, C] at places `held`.
        """
        content = self._content(labels_B, codes_BC, start)
        count, asked = content.shape[1], asked_BQ.shape[1]
        sees = torch.ones(count + asked, start + count, dtype=torch.bool, device=content.device)
        sees[:count] = sees[:count].tril(start)
        return self._logits(content, held_BC, asked_BQ, sees, cache, start)

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` sequences."""
        return new_cache(self.blocks, batch, self.num_patches)

    def _content(self, labels_B: Tensor, codes_BC: Tensor, start: int) -> Tensor:
        codes = self.embed_code(codes_BC)
        return codes if start else torch.cat([self.embed_class(labels_B)[:, None], codes], 1)

    def _logits(
        self, content_BCD: Tensor, held_BC: Tensor, asked_BQ: Tensor, sees: Tensor, cache: Cache | None, start: int
    ) -> Tensor:
        rows = torch.cat([held_BC, asked_BQ], 1) + 1  # of the tables of places; row 0 is the class
        rows = rows if start else F.pad(rows, (1, 0))
        x = torch.cat([content_BCD, self.query.expand(*asked_BQ.shape, -1)], 1)
        if self.embed_position is not None:
            x = x + self.embed_position[rows]
        x = self.drop(x)
        turns = self.turns[:, :, rows].unsqueeze(3) if self.turns is not None else None
        for index, block in enumerate(self.blocks):
            last = index + 1 == len(self.blocks)  # whose output of the content nobody reads
            own = cache[index] if cache is not None else None
            x = block(x, own, start, turns, sees[-asked_BQ.shape[1] :] if last else sees)
        return self.head(self.norm(x)).float()
