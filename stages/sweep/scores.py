"""Scores of decoded images against the originals, as functions of a choice of images: that is what bootstrap needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stages.core import likeness, scores
from stages.core.losses import EncoderPerceptual
from stages.core.pixels import to_float
from stages.core.spaces import Space
from stages.encoder.model import load_encoder
from stages.encoder.space import open_embedded
from stages.judge.space import open_judge

if TYPE_CHECKING:
    from stages.core.params import Machine
    from stages.data.reader import ImageSplit
    from stages.sweep.measure import Params

Statistic = Callable[[np.ndarray], float]  # of the images with these numbers, int64 [any], with repetition


@dataclass(frozen=True)
class Real:
    """The originals, uint8 [M, H, W, 3] with labels int64 [M], and what they are looked at with."""

    images: np.ndarray
    labels: np.ndarray
    spaces: dict[str, Space]
    features: dict[str, list[Tensor]]
    perceptual: EncoderPerceptual
    params: Params
    batch_size: int
    device: torch.device


def open_real(
    val: ImageSplit, chosen: np.ndarray, encoder: Path, judge: Path, params: Params, machine: Machine,
    device: torch.device,
) -> Real:  # fmt: skip
    """Read the chosen images and see them in every space."""
    spaces = {**open_judge(judge, device), "embedded": open_embedded(encoder, device)}
    images, size = val.read(chosen), machine.infer_batch_size
    perceptual = EncoderPerceptual(load_encoder(encoder, device), params.perceptual_blocks)
    features = {name: see(space, images, size) for name, space in spaces.items()}
    return Real(images, val.labels[chosen], spaces, features, perceptual, params, size, device)


@torch.inference_mode()
def see(space: Space, images: np.ndarray, size: int) -> list[Tensor]:
    """A space's features of all images, float32 [M, …] each."""
    parts = [space.features(batch) for batch in batches(images, size)]
    return [torch.cat(one) for one in zip(*parts, strict=True)]


def score(decoded: list[np.ndarray], real: Real) -> dict[str, Any]:
    """{figure: mean over the decodings, _std: by bootstrap over the first one's images, _seed_std: between them}.

    `bootstrap` holds the draws behind _std: of the same images for every decoder, so that differences have a spread of
    their own, that of differences of draws.
    """
    params, everything, figures = real.params, np.arange(len(real.images)), {}
    seeds = [statistics(made, real) for made in decoded]
    draws = {
        name: scores.bootstrap(first, len(everything), params.bootstrap_draws, params.seed)
        for name, first in seeds[0].items()
    }
    for name, drawn in draws.items():
        values = [one[name](everything) for one in seeds]
        figures |= {name: float(np.mean(values)), f"{name}_std": float(np.std(drawn, ddof=1))}
        if len(values) > 1:
            figures[f"{name}_seed_std"] = float(np.std(values, ddof=1))
    figures["bootstrap"] = draws
    return figures if "agreement" in figures else {**figures, "agreement_skipped": "no classes"}


def statistics(made: np.ndarray, real: Real) -> dict[str, Statistic]:
    """The figures of one decoding, uint8 [M, H, W, 3]."""
    features = {name: see(space, made, real.batch_size) for name, space in real.spaces.items()}
    found = {f"rfid[{name}]": partial(distance, of[0], real.features[name][0]) for name, of in features.items()}
    values = {"psnr_db": scores.psnr(real.images, made), "ssim": likeness.ssim(real.images, made)}
    values["perceptual"] = perceptual(made, real)
    if "judge" in features and (real.labels >= 0).all():
        values["agreement"] = features["judge"][1].argmax(1).numpy() == real.labels
    return found | {name: partial(mean, one) for name, one in values.items()}


def distance(features: Tensor, originals: Tensor, index: np.ndarray) -> float:
    """rFID of the numbered images."""
    return likeness.fid(features[index], originals[index])


def mean(values: np.ndarray, index: np.ndarray) -> float:
    """Of one value an image."""
    return float(values[index].mean())


@torch.inference_mode()
def perceptual(made: np.ndarray, real: Real) -> np.ndarray:
    """float64 [M]: the distance of each image from its original in the encoder's features."""
    size = real.batch_size
    parts = [
        real.perceptual.of_each(to_float(one, real.device), to_float(other, real.device))
        for one, other in zip(batches(made, size), batches(real.images, size), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy()


def batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    """The images in runs of at most `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]
