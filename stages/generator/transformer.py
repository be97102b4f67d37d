"""The transformer over codes, causal for `ar` and bidirectional for `masked`.

Sequence: one class position, then the N codes in raster order; the class "none" makes the model unconditional.
B = batch, T = positions, D = width, K = codes.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.distributed import seed_of
from stages.core.networks import load_tensors
from stages.core.transformer import Block, Cache, new_cache, shrink_branches, start_weights
from stages.generator.params import KINDS
from stages.generator.places import LocalMixing, rotary_tables

Positions = Literal["learned", "rotary", "both"]


class TokenTransformer(nn.Module):
    """Codes and a class -> logits over the codes.

    causal: position t attends to the class and to codes before t, and predicts code t.
    otherwise: every position attends to all; the code `num_codes` means "masked".
    """

    embed_position: nn.Parameter | None
    turns: Tensor | None  # rotary angles of all positions
    head: nn.Module

    def __init__(
        self, *, num_codes: int, num_classes: int, num_patches: int, grid: int, dim: int, depth: int, heads: int,
        dropout: float, causal: bool, positions: Positions = "learned", local: int = 0, **block: Any,
    ):  # fmt: skip
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches, self.causal = num_codes, num_classes, num_patches, causal
        self.embed_code = nn.Embedding(num_codes if causal else num_codes + 1, dim)
        self.embed_class = nn.Embedding(num_classes + 1, dim)
        learned = nn.Parameter(torch.empty(num_patches + 1, dim)) if positions != "rotary" else None
        self.register_parameter("embed_position", learned)
        turns = rotary_tables(grid, num_patches, dim // heads, causal) if positions != "learned" else None
        self.register_buffer("turns", turns, persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, causal, **block) for _ in range(depth))
        mixing = [LocalMixing(dim, local, grid, num_patches, causal) for _ in range(depth)] if local else []
        self.mixing = nn.ModuleList(mixing)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.drop = nn.Dropout(dropout)
        self.apply(start_weights)
        if learned is not None:
            nn.init.normal_(learned, std=0.02)
        shrink_branches(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.embed_class.weight.device

    def forward(self, labels_B: Tensor, codes_BT: Tensor, at_BN: Tensor | None = None) -> Tensor:
        """labels int64 [B] (num_classes: none), codes int64 [B, T] -> logits float32 [B, N, K].

        causal: T = N - 1 or N; the last of N codes is not read. Bidirectional: T = N. With a bool
        `at_BN` only the logits of its M true positions, [M, K], row-major.
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

    def fill_cache(self, before_BT: Tensor, cache: Cache) -> None:
        """Keys and values of the first T inputs, into an empty cache: the class, then T - 1 codes, int64 [B, T]."""
        x = torch.cat([self.embed_class(before_BT[:, :1]), self.embed_code(before_BT[:, 1:])], 1)
        self._run(x, cache, 0)

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` sequences: keys and values, and with local mixing the inputs of each block."""
        cache, size = new_cache(self.blocks, batch, self.num_patches), (batch, self.num_patches, len(self.norm.weight))
        return [(*pair, self.embed_class.weight.new_empty(size)) for pair in cache] if self.mixing else cache

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        stop = start + x_BTD.shape[1]
        if self.embed_position is not None:
            x_BTD = x_BTD + self.embed_position[start:stop]
        x_BTD = self.drop(x_BTD)
        turns = self.turns[:, :, start:stop] if self.turns is not None else None
        for index, block in enumerate(self.blocks):
            own = cache[index] if cache is not None else None
            if self.mixing:
                x_BTD = self.mixing[index](x_BTD, own[2] if own is not None else None, start)
            x_BTD = block(x_BTD, own, start, turns)
        return self.norm(x_BTD)


def build_network(kind: ModuleType, shape: dict[str, Any]) -> Any:
    """The network of a kind of generator: its own `network`, else a `TokenTransformer`."""
    return getattr(kind, "network", TokenTransformer)(**shape)


def load_transformer(folder: Path, device: torch.device | str) -> tuple[Any, dict[str, Any]]:
    """The network of a generator artifact, in evaluation mode, and the artifact's config."""
    config = artifact.read_config(folder, "generator")
    network = build_network(import_kind(KINDS[config["kind"]].module), config["shape"])
    network.load_state_dict(load_tensors(folder, "model.safetensors"))
    return network.to(device).eval(), config


def check_unconditional(folder: Path | str, config: dict[str, Any], asked: str) -> None:
    """`UserError` where `asked` needs the model without a class, which it was never trained for."""
    if config["classes"] and not config["class_dropout"]:
        raise UserError(f"{asked}: {folder} was trained with class_dropout 0, so never without a class")


def uniforms(seed: int, first: int, count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform noise [count, *shape] of the samples first … first + count - 1.

    The noise of a sample depends on the seed and its number alone, so a sample is equal in any batch and on any device.
    """
    noise = [
        torch.rand(shape, generator=torch.Generator().manual_seed(seed_of("sample", seed, first + i)))
        for i in range(count)
    ]
    return torch.stack(noise).to(device)
