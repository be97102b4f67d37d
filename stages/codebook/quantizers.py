"""Quantizers: vectors to codes and back, by the nearest of K vectors or by finite scalar quantization."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.codebook.params import COMPARED
from stages.core.networks import load_tensors

PACKED_VALUES, PACKED_FROM = 2**20, 4096  # values of the code vectors and features compared from which packing pays
VECTORS = "codes.safetensors"  # of a codebook artifact: float32 [codebooks * K, D] under the name "vectors"


class Codebook(nn.Module):
    """Code vectors [G * K, D] of G codebooks, and the rule that assigns a vector to one of them.

    The codes of an image are ordered by codebook, with equally many positions for each; code g * K + k is vector k
    of codebook g.
    """

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, normalize: bool, codebooks: int = 1):
        super().__init__()
        self.register_buffer("vectors", vectors_KD.float())
        self.normalize, self.codebooks = normalize, codebooks
        self._packed: list[Tensor | None] = []  # by codebook; made by the first `assign`

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._packed = []  # the vectors are being moved or converted
        return super()._apply(fn, recurse)

    def in_code_space(self, features: Tensor) -> Tensor:
        """float [..., D] -> float32 [..., D], comparable to the code vectors: of unit length if `normalize`."""
        return F.normalize(features.float(), dim=-1) if self.normalize else features.float()

    def assign(self, features: Tensor) -> Tensor:
        """float [..., N, D] -> int64 [..., N]: argmin over k of ||f - c_k||², f in code space."""
        features = self.in_code_space(features)
        parts = features.unflatten(-2, (self.codebooks, -1))
        own = self.vectors.unflatten(0, (self.codebooks, -1))
        self._packed = self._packed or [pack(vectors) for vectors in own]
        codes = [
            nearest(parts.select(-3, g).flatten(0, -2), vectors, self._packed[g]) + g * len(vectors)
            for g, vectors in enumerate(own)
        ]
        return torch.stack([part.view(*features.shape[:-2], -1) for part in codes], -2).flatten(-2)


@torch.no_grad()
def nearest(features_MD: Tensor, vectors_KD: Tensor, packed: Tensor | None = None) -> Tensor:
    """int64 [M]: the nearest code vector for each of float32 [M, D]; the first of equally near ones.

    `packed` is what `pack` made of the vectors, if it was called before.
    """
    # ||f||² is the same for every k and left out; a part at a time, because M x K numbers may not fit.
    size = vectors_KD.square().sum(1)
    with torch.autocast(features_MD.device.type, enabled=False):  # the three digits of bf16 confuse close codes
        if features_MD.device.type != "cpu":
            parts = features_MD.split(max(1, 2**26 // len(vectors_KD)))
            return torch.cat([torch.addmm(size, part, vectors_KD.T, alpha=-2).argmin(1) for part in parts])
        # On a CPU a part that stays in its cache, written to one place, and numpy's argmin, which is vectorized.
        codes = torch.empty(len(features_MD), dtype=torch.int64)
        if packed is None and len(features_MD) >= PACKED_FROM:
            packed = pack(vectors_KD)
        scores = scorer(vectors_KD, size, packed)
        for part, found in zip(features_MD.split(COMPARED), codes.split(COMPARED), strict=True):
            scores(part).numpy().argmin(1, out=found.numpy())
        return codes


def scorer(vectors_KD: Tensor, size_K: Tensor, packed: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The function from float32 [up to COMPARED, D] to ||c||² - 2 f·c, [.., K], on a CPU."""
    if packed is not None:
        return lambda part: torch.ops.mkldnn._linear_pointwise(part, packed, size_K, "none", [], "")
    room = torch.empty(COMPARED, len(vectors_KD))
    return lambda part: torch.addmm(size_K, part, vectors_KD.T, alpha=-2, out=room[: len(part)])


def pack(vectors_KD: Tensor) -> Tensor | None:
    """-2 c in the order in which oneDNN multiplies; None where that does not pay."""
    if vectors_KD.device.type != "cpu" or vectors_KD.numel() < PACKED_VALUES or not packing_pays():
        return None
    return torch.ops.mkldnn._reorder_linear_weight((-2 * vectors_KD).contiguous(), COMPARED)


@cache
def packing_pays() -> bool:
    """True on AMD's CPUs, where MKL, with which torch multiplies, takes 1.36 times as long; on Intel's it is as fast.

    By the CPU's name and not by a measurement, so that a machine always gives the same bytes.
    """
    return torch.backends.mkldnn.is_available() and "AMD" in torch.cpu.get_capabilities().get("cpu_name", "")


class Fsq(nn.Module):
    """Finite scalar quantization (Mentzer et al. 2023): each channel is bounded and rounded to one of its levels.

    A code is the channels' levels as digits, the first channel's the lowest. Nothing is learned: `vectors` [K, D] lists
    the K = prod(levels) points, channels from -1 to 1.
    """

    remedy = "give it fewer levels"  # for collapse
    vectors: Tensor
    levels: Tensor
    base: Tensor

    def __init__(self, levels: list[int]):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        base = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("base", base, persistent=False)
        digits = torch.arange(math.prod(levels))[:, None] // base % self.levels
        self.register_buffer("vectors", self.scaled(digits.float()), persistent=False)

    def scaled(self, digits: Tensor) -> Tensor:
        """Levels 0 … L - 1 -> -1 … 1, L // 2 being 0 as in the paper."""
        half = self.levels // 2
        return (digits - half) / half

    def digits(self, features: Tensor) -> Tensor:
        """float [..., D] -> unrounded levels: tanh into the open range around 0 … L - 1; channels with an even number
        of levels are shifted by half a level, so that 0 is one of them."""
        eps = 1e-3
        reach = (self.levels - 1) * (1 + eps) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(features + torch.atanh(offset / reach)) * reach - offset
        return bounded + self.levels // 2

    def in_code_space(self, features: Tensor) -> Tensor:
        """float [..., D] -> float32 [..., D], comparable to the points: bounded and scaled, not yet rounded."""
        return self.scaled(self.digits(features.float()))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float [..., D] -> the points they are rounded to, codes [...], a loss of 0; straight-through gradient."""
        digits = self.digits(features.float())
        points = self.scaled(digits + (digits.round() - digits).detach())
        return points, self.assign(features), features.new_zeros(())

    def assign(self, features: Tensor) -> Tensor:
        """float [..., D] -> int64 [...]."""
        return (self.digits(features.float()).round().long() * self.base).sum(-1)


class Vq(nn.Module):
    """Plain vector quantization (van den Oord et al. 2017): nearest vector, straight-through gradient.

    Loss = mean (c - sg(z))², which trains the code vectors, + commitment * mean (z - sg(c))², for the encoder.
    """

    remedy = "set revive_dead_codes: true in its section, lower dim or num_codes, or raise commitment"  # for collapse

    def __init__(self, num_codes: int, dim: int, commitment: float):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))
        self.commitment = commitment

    def assign(self, features: Tensor) -> Tensor:
        """float [..., D] -> int64 [...]."""
        return nearest(features.detach().float().flatten(0, -2), self.vectors.detach()).view(features.shape[:-1])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float [..., D] -> quantized vectors float32 [..., D], codes int64 [...], loss."""
        features = features.float()
        codes = self.assign(features)
        chosen = F.embedding(codes, self.vectors)
        loss = F.mse_loss(chosen, features.detach()) + self.commitment * F.mse_loss(features, chosen.detach())
        return features + (chosen - features).detach(), codes, loss


def load_codebook(folder: Path, config: dict[str, Any]) -> Codebook | Fsq:
    """The quantizer of the codebook artifact in `folder`."""
    if "levels" in config:
        return Fsq(config["levels"])
    return Codebook(load_tensors(folder, VECTORS)["vectors"], config["normalize"], config["codebooks"])
