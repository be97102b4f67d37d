"""The transformer over codes, causal for `ar` and bidirectional for `masked`.

Sequence: one class position, then the N codes in raster order; the class "none" makes the model unconditional.
B = batch, T = positions, D = width, K = codes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import UserError, artifact
from stages.core.distributed import seed_of
from stages.core.networks import load_tensors
from stages.core.transformer import Block, Cache, new_cache, run, shrink_branches, start_weights


class TokenTransformer(nn.Module):
    """Codes and a class -> logits over the codes.

    causal: position t attends to the class and to codes before t, and predicts code t.
    otherwise: every position attends to all; the code `num_codes` means "masked".
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

    @property
    def device(self) -> torch.device:
        return self.embed_position.device

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

    def new_cache(self, batch: int) -> Cache:
        """An empty cache of keys and values for `batch` sequences."""
        return new_cache(self.blocks, batch, self.num_patches)

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        x_BTD = self.drop(x_BTD + self.embed_position[start : start + x_BTD.shape[1]])
        return self.norm(run(self.blocks, x_BTD, cache, start))


def load_transformer(folder: Path, device: torch.device | str) -> tuple[TokenTransformer, dict[str, Any]]:
    """The network of a generator artifact, in evaluation mode, and the artifact's config."""
    config = artifact.read_config(folder, "generator")
    network = TokenTransformer(**config["shape"])
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
