"""How codes, code vectors and features of val images change under noise of several levels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.images import to_float
from stages.core.params import Machine
from stages.core.progress import bar
from stages.core.results import write_metrics, write_table
from stages.data.masks import Masks
from stages.data.reader import ImageSplit, image_facts
from stages.studies.noise import (
    foreground_by_mask,
    foreground_by_variance,
    measured_snr_db,
    noise_sigma,
    signal_power,
    unit_noise,
)
from stages.studies.params import NoiseRobustness

METRICS = ("change", "foreground_change", "code_cosine", "feature_cosine", "measured_snr_db")


@dataclass(frozen=True)
class Inputs:
    """Folders of an images and a codebook artifact."""

    images: Path
    codebook: Path


@dataclass(frozen=True)
class Batch:
    """Images by their numbers in the split: pixels float [B, 3, H, W] in [-1, 1], foreground bool [B, N]."""

    numbers: list[int]
    pixels: Tensor
    foreground: Tensor


class Tokenized(NamedTuple):
    """Codes int64 [B, N] of images, their vectors and the features in code space, float [B, N, D]."""

    codes: Tensor
    vectors: Tensor
    features: Tensor


@torch.inference_mode()
def measure(inputs: Inputs, report: Path, params: NoiseRobustness, machine: Machine) -> None:
    """Write metrics.json and noise_robustness.tsv to the folder `report`."""
    artifact.check_made_from(inputs.codebook, f"codebook@{inputs.codebook.name}", images=inputs.images)
    val = ImageSplit(inputs.images, "val", machine.num_workers)
    chosen = random_subset(len(val), params.max_images, params.seed)
    masks = masks_of(inputs.images, [val.keys[number] for number in chosen])
    tokenizer = load_tokenizer(inputs.codebook, pick_device(machine.device))
    sums, counts = [], []
    for batch in batches(val, chosen, masks, tokenizer, params, machine.infer_batch_size):
        sums.append(add_noise(tokenizer, batch, params.snrs_db, params.seeds))
        counts.append(positions_counted(batch))
    used = sum(map(len, counts))
    if used < 2:
        why = f"{used} of the {len(chosen)} val images used are not of one flat color: 2 are needed to add noise"
        print(f"noise_robustness: skipped: {why}")
        write_metrics(report, {"images": artifact.images_digest(inputs.images), "skipped": why})
        write_table(report / "noise_robustness.tsv", ["snr_db", "change"], [])
        return
    count = torch.cat(counts)
    levels = summary(torch.cat(sums).numpy(), count.numpy(), params)
    share = {"foreground_share": float(count.sum(0)[1] / count.sum(0)[0])}
    images = {"images": artifact.images_digest(inputs.images)}
    entry = protocol(inputs.images, tokenizer, masks, params)
    entry |= {"images": used, "flat_images": len(chosen) - used}
    write_metrics(
        report, {**images, **levels, **share, "protocol": [entry, tokenizer_facts(inputs.codebook, tokenizer)]}
    )
    write_levels(report / "noise_robustness.tsv", levels, params)


def masks_of(images: Path, keys: list[str]) -> Masks | None:
    """The masks of val, if every val image with one of these keys has a mask; else None."""
    masks = Masks(images, "val")
    return masks if all(key in masks for key in keys) else None


def batches(
    val: ImageSplit, chosen: np.ndarray, masks: Masks | None, tokenizer: Tokenizer, params: NoiseRobustness,
    batch_size: int,
) -> Iterator[Batch]:  # fmt: skip
    """The chosen images without those of one flat color."""
    with bar("noise_robustness", len(chosen), 0, "image") as progress:
        for start in range(0, len(chosen), batch_size):
            numbers = chosen[start : start + batch_size]
            images = val.read(numbers)
            varied = (images != images[:, :1, :1]).any((1, 2, 3))
            if varied.any():
                keys = [val.keys[number] for number in numbers[varied]]
                covered = masks.read(keys) if masks else None
                yield as_batch(numbers[varied].tolist(), images[varied], covered, tokenizer, params)
            progress.update(len(numbers))


def as_batch(
    numbers: list[int], images: np.ndarray, covered: np.ndarray | None, tokenizer: Tokenizer, params: NoiseRobustness
) -> Batch:
    """uint8 [B, H, W, 3] and, if there are masks, what they cover (bool [B, H, W]), on the tokenizer's device."""
    pixels = to_float(images, tokenizer.device)
    if covered is None:
        foreground = foreground_by_variance(pixels, tokenizer.grid, params.foreground_variance)
    else:
        foreground = foreground_by_mask(torch.from_numpy(covered).to(pixels.device), tokenizer.grid)
    return Batch(numbers, pixels, foreground.repeat(1, tokenizer.num_patches // tokenizer.grid**2))


def positions_counted(batch: Batch) -> Tensor:
    """float64 [B, METRICS] on the CPU: over how many of an image's positions each metric is a mean; 1 for the SNR."""
    foreground = batch.foreground.sum(1)
    positions = torch.full_like(foreground, batch.foreground.shape[1])
    ones = torch.ones_like(foreground)
    return torch.stack([positions, foreground, positions, positions, ones], 1).cpu().double()


def add_noise(tokenizer: Tokenizer, batch: Batch, snrs_db: list[float], seeds: list[int]) -> Tensor:
    """float64 [B, seeds, levels, METRICS] on the CPU: each metric under noise, summed over an image."""
    pixels, power, clean = batch.pixels, signal_power(batch.pixels), tokenize(tokenizer, batch.pixels)
    found = []
    for seed in seeds:
        noise = unit_noise(batch.numbers, pixels.shape[-1], seed).to(pixels.device)
        for snr_db in snrs_db:
            noisy = pixels + noise_sigma(power, snr_db)[:, None, None, None] * noise
            changes = compare(clean, tokenize(tokenizer, noisy), batch.foreground)
            found.append(torch.stack([*changes, measured_snr_db(pixels, noisy)], 1))
    return torch.stack(found, 1).unflatten(1, (len(seeds), len(snrs_db))).cpu().double()


def tokenize(tokenizer: Tokenizer, pixels: Tensor) -> Tokenized:
    """Codes, code vectors and features of float [B, 3, H, W] in [-1, 1]."""
    features = tokenizer.features(pixels)
    codes = tokenizer.codebook.assign(features)
    return Tokenized(codes, tokenizer.vectors(codes), tokenizer.codebook.in_code_space(features))


def compare(clean: Tokenized, noisy: Tokenized, foreground: Tensor) -> list[Tensor]:
    """The metrics of positions, summed over each image, [B] each; foreground bool [B, N]."""
    changed = clean.codes != noisy.codes
    vectors, features = cosine(clean.vectors, noisy.vectors), cosine(clean.features, noisy.features)
    return [values.float().sum(1) for values in (changed, changed & foreground, vectors, features)]


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """float [..., D] twice -> float [...]; exactly 1 for equal vectors, even if all are 0."""
    return cosine_similarity(before, after, dim=-1).masked_fill((before == after).all(-1), 1.0)


def level(snr_db: float) -> str:
    """The name of a level's metrics."""
    return f"snr_{snr_db:g}_db"


def summary(sums: np.ndarray, counts: np.ndarray, params: NoiseRobustness) -> dict[str, dict[str, float]]:
    """{level: metrics with their deviations}; a metric without any position to average over is left out.

    sums [M, seeds, levels, METRICS], counts [M, METRICS] of M images. A metric is a ratio of sums over images; its
    standard error is that of the mean of its images' residuals (Cochran 1977, 6.4).
    """
    total = np.where(counts.sum(0) > 0, counts.sum(0), np.nan)
    of_seeds = sums.sum(0) / total
    means = of_seeds.mean(0)
    residuals = sums.mean(1) - means * counts[:, None]
    image_std = len(sums) ** 0.5 * residuals.std(0, ddof=1) / total
    found = {"": means, "_std": of_seeds.std(0, ddof=1), "_image_std": image_std}
    return {
        level(snr_db): {
            f"{name}{suffix}": float(values[row, column])
            for column, name in enumerate(METRICS)
            if np.isfinite(means[row, column])
            for suffix, values in found.items()
        }
        for row, snr_db in enumerate(params.snrs_db)
    }


def write_levels(path: Path, levels: dict[str, dict[str, float]], params: NoiseRobustness) -> None:
    """Write a table with one row per level and one column per metric."""
    names = [name for name in levels[level(params.snrs_db[0])] if not name.endswith("_std")]
    rows = [(snr_db, *(levels[level(snr_db)][name] for name in names)) for snr_db in params.snrs_db]
    write_table(path, ["snr_db", *names], rows)


def protocol(images: Path, tokenizer: Tokenizer, masks: Masks | None, params: NoiseRobustness) -> dict[str, Any]:
    """How the metrics were measured. Equal for tokenizers of the same code grid, so that the report compares them."""
    variance = f"variance in the patch above {params.foreground_variance:g} (pixels from -1 to 1)"
    return {
        "of": "noise_robustness",
        "reference": "val",
        "reference_digest": artifact.digest(images)[:12],
        "img_px": image_facts(images)["img_px"],
        "positions": tokenizer.num_patches,
        "signal_power": "variance of each channel around its own mean, averaged over channels, of each image",
        "noise": "white and Gaussian, independent in every pixel and channel, neither clipped nor rounded",
        "foreground": "a pixel of the image's mask in the patch" if masks else variance,
        "snrs_db": params.snrs_db,
        "noise_seeds": params.seeds,
    }


def tokenizer_facts(codebook: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What distinguishes this tokenizer from others under the same protocol."""
    return {"of": "tokenizer", "num_codes": tokenizer.num_codes, "digest": artifact.digest(codebook)[:12]}
