"""Metrics of decoded images against the originals, as functions of a subset of images, as bootstrap needs them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.images import to_float
from stages.core.metrics import bootstrap, psnr
from stages.core.networks import EncoderPerceptual
from stages.evaluate.extractors import FeatureExtractor
from stages.evaluate.frechet import fid
from stages.evaluate.metrics import ssim
from stages.studies.params import DecodingSteps

Statistic = Callable[[np.ndarray], float]  # of the images with these numbers, int64 [any], with repetition


@dataclass(frozen=True)
class Originals:
    """The original images, uint8 [M, H, W, 3] with labels int64 [M], and the networks that compare with them."""

    images: np.ndarray
    labels: np.ndarray
    extractors: dict[str, FeatureExtractor]
    features: dict[str, list[Tensor]]
    perceptual: EncoderPerceptual
    device: torch.device
    batch_size: int


@torch.inference_mode()
def extract(extractor: FeatureExtractor, images: np.ndarray, batch_size: int) -> list[Tensor]:
    """The extractor's features of all images, float32 [M, …] each."""
    parts = [extractor.features(batch) for batch in batches(images, batch_size)]
    return [torch.cat(one) for one in zip(*parts, strict=True)]


def score(decoded: list[np.ndarray], originals: Originals, params: DecodingSteps) -> dict[str, Any]:
    """{metric: mean over the decodings, _std: by bootstrap over images of the first one, _seed_std: between them}.

    `bootstrap` holds the draws behind _std. They resample the same images for every decoder, so that the spread of a
    difference between decoders is that of the differences of draws.
    """
    everything, metrics = np.arange(len(originals.images)), {}
    by_seed = [statistics(images, originals) for images in decoded]
    draws = {
        name: bootstrap(first, len(everything), params.bootstrap_draws, params.seed)
        for name, first in by_seed[0].items()
    }
    for name, drawn in draws.items():
        values = [one[name](everything) for one in by_seed]
        metrics |= {name: float(np.mean(values)), f"{name}_std": float(np.std(drawn, ddof=1))}
        if len(values) > 1:
            metrics[f"{name}_seed_std"] = float(np.std(values, ddof=1))
    metrics["bootstrap"] = draws
    return metrics if "class_accuracy" in metrics else {**metrics, "class_accuracy_skipped": "no classes"}


def statistics(decoded: np.ndarray, originals: Originals) -> dict[str, Statistic]:
    """The metrics of one decoding, uint8 [M, H, W, 3]."""
    size, labels = originals.batch_size, originals.labels
    features = {name: extract(one, decoded, size) for name, one in originals.extractors.items()}
    found = {f"rfid[{name}]": partial(rfid, of[0], originals.features[name][0]) for name, of in features.items()}
    values = {"psnr_db": psnr(originals.images, decoded), "ssim": ssim(originals.images, decoded)}
    values["perceptual"] = perceptual_distances(decoded, originals)
    if "classifier" in features and (labels >= 0).all():
        values["class_accuracy"] = features["classifier"][1].argmax(1).numpy() == labels
    return found | {name: partial(mean, one) for name, one in values.items()}


def rfid(features: Tensor, originals: Tensor, index: np.ndarray) -> float:
    """Fréchet distance of the numbered images."""
    return fid(features[index], originals[index])


def mean(values: np.ndarray, index: np.ndarray) -> float:
    """Mean of the numbered images' values [M]."""
    return float(values[index].mean())


@torch.inference_mode()
def perceptual_distances(decoded: np.ndarray, originals: Originals) -> np.ndarray:
    """float64 [M]: distance of each image from its original in the encoder's features."""
    size, device = originals.batch_size, originals.device
    parts = [
        originals.perceptual.of_each(to_float(one, device), to_float(other, device))
        for one, other in zip(batches(decoded, size), batches(originals.images, size), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy()


def batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    """The images in runs of at most `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]
