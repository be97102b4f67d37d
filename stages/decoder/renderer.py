"""The renderer: a transformer from an image's codes to those of a pixel tokenizer, whose frozen decoder paints them.

DiGIT's stage 2 (papers, 1.3). Sequence: the M given codes, a separator, the N pixel codes; the first two and the last
have position tables of their own, all codes share one table of embeddings, logits are over pixel codes alone. Causal,
the given codes too, for method `ar`; bidirectional for `masked`. B = batch, D = width, K = pixel codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import artefact, causal, masking
from stages.core.transformer import Block, Cache, new_cache, run, shrink_branches, start_weights
from stages.decoder.model import Decoder, load_decoder
from stages.decoder.noise import uniform

if TYPE_CHECKING:
    import numpy as np


class Renderer(nn.Module):
    """Rows of the table of embeddings: given codes, the separator, pixel codes and, not causal, the masked one.

    causal: position t of the pixel codes sees all given codes and the pixel codes before t.
    otherwise: every position sees everything; the pixel code `num_codes` means "masked".
    """

    def __init__(
        self,
        *,
        num_given: int,
        given_patches: int,
        num_codes: int,
        num_patches: int,
        dim: int,
        depth: int,
        heads: int,
        dropout: float,
        causal: bool,
    ):
        super().__init__()
        self.num_given, self.given_patches, self.causal = num_given, given_patches, causal
        self.num_codes, self.num_patches = num_codes, num_patches
        self.embed_code = nn.Embedding(num_given + 1 + num_codes + (not causal), dim)
        self.embed_prefix = nn.Parameter(torch.empty(given_patches + 1, dim))
        self.embed_pixel = nn.Parameter(torch.empty(num_patches, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, causal) for _ in range(depth))
        self.norm, self.head, self.drop = nn.LayerNorm(dim), nn.Linear(dim, num_codes), nn.Dropout(dropout)
        self.apply(start_weights)
        for table in (self.embed_prefix, self.embed_pixel):
            nn.init.normal_(table, std=0.02)
        shrink_branches(self.blocks)

    def forward(self, given_BM: Tensor, codes_BN: Tensor, at_BN: Tensor | None = None) -> Tensor:
        """int64 [B, M] given codes, int64 [B, N] pixel codes -> logits float32 [B, N, K] for the pixel codes.

        With a bool `at_BN` only the logits of its true positions, [true ones, K], row-major.
        """
        seen = codes_BN[:, : self.num_patches - 1] if self.causal else codes_BN
        x = torch.cat([self._prefix(given_BM), self._pixels(seen, 0)], 1)
        # Causal: the separator predicts the first pixel code, each pixel code the next one.
        hidden = self._run(x, None, 0)[:, self.given_patches + (not self.causal) :]
        return self.head(hidden if at_BN is None else hidden[at_BN]).float()

    def next_logits(self, given_BM: Tensor, newest_B: Tensor | None, position: int, cache: Cache) -> Tensor:
        """Logits [B, K] of pixel code `position`, given the one before it; at position 0 the cache takes the prefix."""
        if newest_B is None:
            return self.head(self._run(self._prefix(given_BM), cache, 0)[:, -1]).float()
        x = self._pixels(newest_B[:, None], position - 1)
        return self.head(self._run(x, cache, self.given_patches + position)[:, -1]).float()

    def new_cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` sequences."""
        return new_cache(self.blocks, batch, self.given_patches + self.num_patches)

    def _prefix(self, given_BM: Tensor) -> Tensor:
        separator = given_BM.new_full((len(given_BM), 1), self.num_given)
        return self.embed_code(torch.cat([given_BM, separator], 1)) + self.embed_prefix

    def _pixels(self, codes_BT: Tensor, start: int) -> Tensor:
        rows = self.embed_code(codes_BT + self.num_given + 1)
        return rows + self.embed_pixel[start : start + codes_BT.shape[1]]

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        return self.norm(run(self.blocks, self.drop(x_BTD), cache, start))


class RenderDecoder(Decoder):
    """Draws pixel codes for an image's codes; `pixel_decoder` paints them.

    Equal seeds and codes give equal images in any batch, with one reservation: logits are float sums, whose rounding
    (about 1e-6) may depend on the batch's size; a draw within it of the border between two codes may go either way.
    """

    def __init__(self, network: Renderer, config: dict[str, Any], device: torch.device | str, pixel_decoder: Decoder):
        super().__init__(network, config, device)
        self.renderer, self.pixel_decoder = network, pixel_decoder

    @property
    def num_parameters(self) -> int:
        return super().num_parameters + self.pixel_decoder.num_parameters

    @property
    def steps(self) -> int | None:
        """Forwards an image; autoregressive ones have as many as pixel codes, no fewer."""
        return None if self.renderer.causal else self.config["sampling"]["steps"]

    def paint(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        return self.pixel_decoder.paint(self.pixel_codes(codes_BN, seeds_B), seeds_B)

    @torch.inference_mode()
    def pixel_codes(self, codes_BM: Tensor, seeds_B: np.ndarray) -> Tensor:
        """int64 [B, M] codes on the device -> int64 [B, N] codes of the pixel tokenizer."""
        settings = self.config["sampling"]
        filters = {"temperature": settings["temperature"], "top_k": 0, "top_p": settings["top_p"]}
        count = self.renderer.num_patches
        if self.renderer.causal:
            cache = self.renderer.new_cache(len(codes_BM))
            return causal.draw_in_order(
                lambda newest, position: self.renderer.next_logits(codes_BM, newest, position, cache),
                uniform(seeds_B, (count,), self.device), **filters,
            )  # fmt: skip
        return masking.draw_by_steps(
            lambda pixel_codes, at: self.renderer(codes_BM, pixel_codes, at),
            uniform(seeds_B, (settings["steps"], 2, count), self.device),
            num_codes=self.renderer.num_codes, choice_temperature=settings["choice_temperature"], **filters,
        )  # fmt: skip


def load_render(folder: Path, config: dict[str, Any], device: torch.device | str) -> RenderDecoder:
    """The decoder artefact in `folder`, with the pixel tokenizer's decoder inside it."""
    network = Renderer(**config["shape"], causal=config["method"] == "ar")
    network.load_state_dict(artefact.load_tensors(folder, "model.safetensors"))
    return RenderDecoder(network, config, device, load_decoder(folder / "decoder", device))
