"""The transformer over codes, causal for `ar` and bidirectional for `masked`.

Sequence: one class position, or the W positions of a caption (prefix.py), then the N codes in raster order; the class
"none" and the null caption make the model unconditional.
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
from stages.core.transformer import Block, Cache, logits_at, new_cache, shrink_branches, start_weights
from stages.generator.params import KINDS
from stages.generator.places import LocalMixing, rotary_tables
from stages.generator.prefix import CaptionPrefix, attention_mask, seen_columns

Positions = Literal["learned", "rotary", "both"]


class TokenTransformer(nn.Module):
    """Codes and a class or a caption -> logits over the codes.

    causal: position t attends to what is given and to codes before t, and predicts code t.
    otherwise: every position attends to all; the code `num_codes` means "masked".
    """

    embed_position: nn.Parameter | None
    turns: Tensor | None  # rotary angles of all positions
    head: nn.Module

    def __init__(
        self, *, num_codes: int, num_classes: int, num_patches: int, grid: int, dim: int, depth: int, heads: int,
        dropout: float, causal: bool, positions: Positions = "learned", local: int = 0,
        caption: dict[str, int] | None = None, **block: Any,
    ):  # fmt: skip
        super().__init__()
        self.num_codes, self.num_classes, self.num_patches, self.causal = num_codes, num_classes, num_patches, causal
        self.embed_code = nn.Embedding(num_codes if causal else num_codes + 1, dim)
        self.prefix = CaptionPrefix(dim, **caption) if caption else None
        self.prefix_length = self.prefix.length if self.prefix else 1  # positions before the codes
        self.embed_class = None if caption else nn.Embedding(num_classes + 1, dim)
        learned = nn.Parameter(torch.empty(num_patches + self.prefix_length, dim)) if positions != "rotary" else None
        self.register_parameter("embed_position", learned)
        rotary = positions != "learned"
        turns = rotary_tables(grid, num_patches, dim // heads, causal, self.prefix_length) if rotary else None
        self.register_buffer("turns", turns, persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, causal, **block) for _ in range(depth))
        mixing = (dim, local, grid, num_patches, causal, self.prefix_length)
        self.mixing = nn.ModuleList(LocalMixing(*mixing) for _ in range(depth if local else 0))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_codes)
        self.drop = nn.Dropout(dropout)
        self.apply(start_weights)
        if learned is not None:
            nn.init.normal_(learned, std=0.02)
        if self.prefix:
            nn.init.normal_(self.prefix.null, std=0.02)
        shrink_branches(self.blocks)

    @property
    def device(self) -> torch.device:
        return self.embed_code.weight.device

    @property
    def is_conditional(self) -> bool:
        """Whether there is something to be given, so that guidance has a meaning."""
        return self.prefix is not None or self.num_classes > 0

    def null(self, batch: int) -> Tensor:
        """`batch` times the class "none", int64 [B], or the null caption, [B, …]."""
        if self.prefix is None:
            return torch.full((batch,), self.num_classes, device=self.device)
        vocabulary = isinstance(self.prefix.embed, nn.Embedding)
        dtype = torch.int64 if vocabulary else torch.float32
        return torch.zeros(batch, *self.prefix.empty_shape, dtype=dtype, device=self.device)

    def forward(self, given: Tensor, codes_BT: Tensor, at_BN: Tensor | None = None) -> Tensor:
        """Classes int64 [B] (num_classes: none) or captions (prefix.py), codes int64 [B, T] -> float32 [B, N, K].

        causal: T = N - 1 or N; the last of N codes is not read. Bidirectional: T = N. With a bool
        `at_BN` only the logits of its M true positions, [M, K], row-major.
        """
        if self.causal:
            codes_BT = codes_BT[:, : self.num_patches - 1]
        hidden = self._start(given, codes_BT, None)[:, self.prefix_length - self.causal :]
        return self.head(hidden).float() if at_BN is None else logits_at(self.head, hidden, at_BN)

    def next_logits(self, newest: Tensor, position: int, cache: Cache) -> Tensor:
        """Logits [B, K] of code `position`, given the newest input: at position 0 what is given, else a code [B]."""
        if position:
            start = self.prefix_length + position - 1
            seen = cache[-1][0][..., : start + 1] if self.prefix else None
            hidden = self._run(self.embed_code(newest)[:, None], cache, start, seen)
        else:
            hidden = self._start(newest, newest.new_empty((len(newest), 0), dtype=torch.int64), cache)
        return self.head(hidden[:, -1]).float()

    def fill_cache(self, given: Tensor, codes_BT: Tensor, cache: Cache) -> None:
        """Into an empty cache what `next_logits` keeps of the first inputs: what is given, then codes int64 [B, T]."""
        self._start(given, codes_BT, cache)

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` sequences: keys and values, and with local mixing the inputs of each block.

        With captions a last entry: the positions that are no padding, bool [B, 1, 1, positions].
        """
        positions, like = self.prefix_length + self.num_patches - 1, self.norm.weight
        cache = new_cache(self.blocks, batch, positions)
        if self.mixing:
            for index, pair in enumerate(cache):
                cache[index] = (*pair, like.new_empty((batch, positions, len(like))))
        if self.prefix:
            cache.append((like.new_empty((batch, 1, 1, positions), dtype=torch.bool),))
        return cache

    def _start(self, given: Tensor, codes_BT: Tensor, cache: Cache | None) -> Tensor:
        """What is given, then codes int64 [B, T], through all blocks, from the first position on."""
        if self.prefix is None:
            assert self.embed_class is not None
            return self._run(torch.cat([self.embed_class(given)[:, None], self.embed_code(codes_BT)], 1), cache, 0)
        x, padded = self.prefix(given)
        x = torch.cat([x, self.embed_code(codes_BT)], 1)
        if cache is not None:
            cache[-1][0][:] = seen_columns(padded, self.prefix_length + self.num_patches - 1)
        return self._run(x, cache, 0, attention_mask(padded, x.shape[1], self.causal))

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int, sees: Tensor | None = None) -> Tensor:
        stop = start + x_BTD.shape[1]
        if self.embed_position is not None:
            x_BTD = x_BTD + self.embed_position[start:stop]
        x_BTD = self.drop(x_BTD)
        turns = self.turns[:, :, start:stop] if self.turns is not None else None
        for index, block in enumerate(self.blocks):
            own = cache[index] if cache is not None else None
            if self.mixing:
                x_BTD = self.mixing[index](x_BTD, own[2] if own is not None else None, start)
            x_BTD = block(x_BTD, own, start, turns, sees)
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
    """`UserError` where `asked` needs the model without a class or caption, which it was never trained for."""
    given = "caption" if "text_encoder" in config else "class" if config["classes"] else ""
    if given and not config["class_dropout"]:
        raise UserError(f"{asked}: {folder} was trained with class_dropout 0, so never without a {given}")


def nothing_known(model: Any, count: int) -> Tensor:
    """int64 [count, N], `num_codes` everywhere: for `fill` of a kind that draws codes around known ones."""
    return torch.full((count, model.num_patches), model.num_codes, device=model.device)


def uniforms(seed: int, first: int, count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform noise [count, *shape] of the samples first … first + count - 1.

    The noise of a sample depends on the seed and its number alone, so a sample is equal in any batch and on any device.
    """
    noise = [
        torch.rand(shape, generator=torch.Generator().manual_seed(seed_of("sample", seed, first + i)))
        for i in range(count)
    ]
    return torch.stack(noise).to(device)
