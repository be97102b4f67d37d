"""What noise does to the codes of a batch of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stages.stability.noise import measured_snr_db, noise_sigma, signal_power, unit_noise

if TYPE_CHECKING:
    from stages.codebook.model import Tokenizer

FIGURES = ("change", "foreground_change", "code_cosine", "row_cosine", "measured_snr_db")


@dataclass(frozen=True)
class Batch:
    """Images by their numbers in the split: pixels float [B, 3, H, W] in [-1, 1], foreground bool [B, N]."""

    numbers: list[int]
    pixels: Tensor
    foreground: Tensor


def how_many(batch: Batch) -> Tensor:
    """float64 [B, FIGURES] on the CPU: over how many of an image's positions, for the last 1, each figure is a mean."""
    shown = batch.foreground.sum(1)
    positions = torch.full_like(shown, batch.foreground.shape[1])
    return torch.stack([positions, shown, positions, positions, torch.ones_like(shown)], 1).cpu().double()


def disturb(tokenizer: Tokenizer, batch: Batch, snrs_db: list[float], seeds: list[int]) -> Tensor:
    """float64 [B, seeds, levels, FIGURES] on the CPU: each figure summed over an image."""
    pixels, power, clean = batch.pixels, signal_power(batch.pixels), seen(tokenizer, batch.pixels)
    found = []
    for seed in seeds:
        noise = unit_noise(batch.numbers, pixels.shape[-1], seed).to(pixels.device)
        for snr_db in snrs_db:
            noisy = pixels + noise_sigma(power, snr_db)[:, None, None, None] * noise
            positions = compare(clean, seen(tokenizer, noisy), batch.foreground)
            found.append(torch.stack([*positions, measured_snr_db(pixels, noisy)], 1))
    return torch.stack(found, 1).unflatten(1, (len(seeds), len(snrs_db))).cpu().double()


class Seen(NamedTuple):
    """What a tokenizer makes of images: codes int64 [B, N], their vectors and the rows among these, float [B, N, D]."""

    codes: Tensor
    vectors: Tensor
    rows: Tensor


def seen(tokenizer: Tokenizer, pixels: Tensor) -> Seen:
    """Of float [B, 3, H, W] in [-1, 1]."""
    rows = tokenizer.rows(pixels)
    codes = tokenizer.codebook.assign(rows)
    return Seen(codes, tokenizer.vectors(codes), tokenizer.codebook.placed(rows))


def compare(clean: Seen, noisy: Seen, foreground: Tensor) -> list[Tensor]:
    """The figures of positions, summed over each image, [B] each; foreground bool [B, N]."""
    changed = clean.codes != noisy.codes
    codes, rows = cosine(clean.vectors, noisy.vectors), cosine(clean.rows, noisy.rows)
    return [values.float().sum(1) for values in (changed, changed & foreground, codes, rows)]


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """float [..., D] twice -> float [...]; exactly 1 for equal vectors, even where all is 0."""
    return cosine_similarity(before, after, dim=-1).masked_fill((before == after).all(-1), 1.0)
