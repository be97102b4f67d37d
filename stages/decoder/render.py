"""render: a transformer from the codes to those of a pixel tokenizer, whose frozen decoder decodes (DiGIT's stage 2).

Sequence: the M given codes, a separator, the N pixel codes. The two parts have separate position tables; codes share
one embedding table; logits are over pixel codes alone. Method `ar` is causal, the given codes included; `masked` is
bidirectional. B = batch, D = width, K = number of pixel codes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.networks import load_tensors
from stages.core.sampling import sample_autoregressive, sample_maskgit
from stages.core.transformer import (
    Block,
    Cache,
    for_sampling,
    logits_at,
    new_cache,
    run,
    shrink_branches,
    start_weights,
)
from stages.decoder.decoder import Decoder, load_decoder, uniform


class RenderTransformer(nn.Module):
    """Embedding table: given codes, the separator, pixel codes and, if not causal, the mask code `num_codes`.

    causal: position t of the pixel codes attends to all given codes and to the pixel codes before t.
    """

    def __init__(
        self, *, num_given: int, given_patches: int, num_codes: int, num_patches: int,
        dim: int, depth: int, heads: int, dropout: float, causal: bool,
    ):  # fmt: skip
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
        """int64 [B, M] given codes, int64 [B, N] pixel codes -> logits float32 [B, N, K] of the pixel codes.

        With a bool `at_BN` only the logits at its true positions, [number of them, K], row-major.
        """
        shown = codes_BN[:, : self.num_patches - 1] if self.causal else codes_BN
        x = torch.cat([self._prefix(given_BM), self._pixels(shown, 0)], 1)
        # Causal: the separator predicts the first pixel code, each pixel code the next one.
        hidden = self._run(x, None, 0)[:, self.given_patches + (not self.causal) :]
        return self.head(hidden).float() if at_BN is None else logits_at(self.head, hidden, at_BN)

    def next_logits(self, given_BM: Tensor, codes_BT: Tensor, cache: Cache) -> Tensor:
        """Logits [B, K] of the pixel code after `codes_BT`, of which the cache holds all but the last; without any
        codes it is filled with the prefix."""
        if not (position := codes_BT.shape[1]):
            return self.head(self._run(self._prefix(given_BM), cache, 0)[:, -1]).float()
        x = self._pixels(codes_BT[:, -1:], position - 1)
        return self.head(self._run(x, cache, self.given_patches + position)[:, -1]).float()

    def new_cache(self, batch: int) -> Cache:
        """Empty key-value cache for `batch` sequences."""
        return new_cache(self.blocks, batch, self.given_patches + self.num_patches)

    def _prefix(self, given_BM: Tensor) -> Tensor:
        separator = given_BM.new_full((len(given_BM), 1), self.num_given)
        return self.embed_code(torch.cat([given_BM, separator], 1)) + self.embed_prefix

    def _pixels(self, codes_BT: Tensor, start: int) -> Tensor:
        embedded = self.embed_code(codes_BT + self.num_given + 1)
        return embedded + self.embed_pixel[start : start + codes_BT.shape[1]]

    def _run(self, x_BTD: Tensor, cache: Cache | None, start: int) -> Tensor:
        return self.norm(run(self.blocks, self.drop(x_BTD), cache, start))


class RenderDecoder(Decoder):
    """Samples pixel codes for the codes of an image; `pixel_decoder` decodes them.

    Equal seeds and codes give equal images in any batch, except for float rounding: logits differ by about 1e-6 between
    batch sizes, so a draw within that distance of the border between two codes may give either code.
    """

    network: RenderTransformer

    def __init__(
        self, network: RenderTransformer, config: dict[str, Any], device: torch.device | str, pixel_decoder: Decoder
    ):
        super().__init__(network, config, device)
        self.pixel_decoder = pixel_decoder

    @property
    def num_parameters(self) -> int:
        return super().num_parameters + self.pixel_decoder.num_parameters

    @property
    def steps(self) -> int | None:
        """Forward passes per image; None for method `ar`, which always takes one per pixel code."""
        return None if self.network.causal else self.config["sampling"]["steps"]

    def decode_batch(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        return self.pixel_decoder.decode_batch(self.pixel_codes(codes_BN, seeds_B), seeds_B)

    @torch.inference_mode()
    def pixel_codes(self, codes_BM: Tensor, seeds_B: np.ndarray) -> Tensor:
        """int64 [B, M] codes on the device -> int64 [B, N] codes of the pixel tokenizer."""
        settings, count = self.config["sampling"], self.network.num_patches
        filters: dict[str, Any] = {"temperature": settings["temperature"], "top_k": 0, "top_p": settings["top_p"]}
        network = for_sampling(self.network, len(codes_BM) * (1 if self.network.causal else count))
        if network.causal:
            cache = network.new_cache(len(codes_BM))
            return sample_autoregressive(
                lambda codes: network.next_logits(codes_BM, codes, cache),
                uniform(seeds_B, (count,), self.device), **filters,
            )  # fmt: skip
        return sample_maskgit(
            lambda pixel_codes, at: network(codes_BM, pixel_codes, at),
            uniform(seeds_B, (settings["steps"], 2, count), self.device),
            num_codes=network.num_codes, choice_temperature=settings["choice_temperature"], **filters,
        )  # fmt: skip


def build(config: dict[str, Any]) -> RenderTransformer:
    """The network that a decoder's config describes."""
    return RenderTransformer(**config["shape"], causal=config["method"] == "ar")


def load(folder: Path, config: dict[str, Any], device: torch.device | str) -> RenderDecoder:
    """The decoder artifact in `folder`, with the pixel tokenizer's decoder inside it."""
    network = build(config)
    network.load_state_dict(load_tensors(folder, "model.safetensors"))
    return RenderDecoder(network, config, device, load_decoder(folder / "decoder", device))
