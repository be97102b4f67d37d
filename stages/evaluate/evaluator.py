"""Evaluation context: feature extractors and reference images, shared by reconstruction and generation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core import artifact
from stages.core.params import Machine
from stages.decoder.decoder import Decoder
from stages.evaluate import protocol
from stages.evaluate.extractors import FeatureExtractor, open_extractors
from stages.evaluate.image_features import Extract, ImageFeatures, extract_all, make_extractor
from stages.evaluate.neighbors import distance_metrics, distances_to
from stages.evaluate.params import Inputs
from stages.evaluate.reference import TYPE as REFERENCE_TYPE
from stages.evaluate.reference import Reference, load_reference


@dataclass(frozen=True)
class Evaluator:
    """Feature extractors, `extract` which applies all of them, and the real images of `reference` to compare with."""

    images: Path
    extractors: dict[str, FeatureExtractor]
    extract: Extract
    reference: Reference
    batch_size: int

    def extract_all(self, count: int, read: Callable[[range], np.ndarray]) -> ImageFeatures:
        """The features of `count` images; `read` returns the images of a range of numbers, uint8 [B, H, W, 3]."""
        return extract_all(count, read, self.extract, self.batch_size)

    def can_classify(self, labels: np.ndarray) -> bool:
        """Whether there is a classifier, and every image has a class, int64 [M]."""
        return "classifier" in self.extractors and bool((labels >= 0).all())

    @property
    def gives_logits(self) -> bool:
        """Whether an extractor predicts classes, as the Inception score needs."""
        return bool({"classifier", "inception"} & self.extractors.keys())

    def neighbor_metrics(self, images: ImageFeatures) -> dict[str, dict[str, float]]:
        """Distances to the nearest train image of the reference, in pixels and in features."""
        found = distances_to(images, self.reference.train)
        return {name: distance_metrics(one, self.reference.val_distances[name]) for name, one in found.items()}

    def describe(self, of: str, reference: str, labels: np.ndarray, **settings: Any) -> dict[str, Any]:
        """The protocol of images with `labels` int64 [count], against the split `reference`."""
        others = labels if reference == "val" else self.reference.labels
        config = self.reference.config
        settings |= {"reference_seed": config["seed"], "pixel_px": config["pixel_px"]}
        return protocol.describe(of, reference, self.images, labels, others, self.extractors, **settings)


def open_evaluator(inputs: Inputs, machine: Machine, device: torch.device) -> Evaluator:
    """Open the extractors that made the reference; one of other images or networks is an error."""
    sources = {"images": inputs.images, "encoder": inputs.encoder, "classifier": inputs.classifier}
    artifact.check_made_from(inputs.reference, "reference", **sources)
    artifact.check_made_from(inputs.classifier, "classifier", images=inputs.images)
    artifact.check_made_from(inputs.decoder, f"decoder@{inputs.decoder.name}", images=inputs.images)
    config = artifact.read_config(inputs.reference, REFERENCE_TYPE)
    extractors = open_extractors(inputs.encoder, inputs.classifier, device, config["inception_weights"])
    extract = make_extractor(extractors, config["pixel_px"])
    reference = load_reference(inputs.reference, extractors)
    return Evaluator(inputs.images, extractors, extract, reference, machine.infer_batch_size)


def decode(decoder: Decoder, codes: np.ndarray, seed: int) -> np.ndarray:
    """Codes [B, N] -> uint8 [B, H, W, 3]; `seed` determines what the decoder draws at random.

    Every batch starts from the same seed, so that the batch size changes no image.
    """
    return decoder.decode(codes, torch.Generator().manual_seed(seed))


def print_summary(stage: str, results: dict[str, Any]) -> None:
    """One line per group of metrics, and one per metric that could not be measured, with the reason."""
    for group, metrics in ((name, one) for name, one in results.items() if isinstance(one, dict)):
        shown = {name: one for name, one in metrics.items() if isinstance(one, float) and not name.endswith("_std")}
        if shown:
            print(f"{stage}: {group}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        for name in (name for name in metrics if name.endswith("skipped")):
            print(f"{stage}: {group}: {name.replace('_', ' ')}: {metrics[name]}")
