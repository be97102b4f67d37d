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
from stages.evaluate.extractors import FeatureExtractor, open_extractors
from stages.evaluate.image_features import Extract, ImageFeatures, extract_all, make_extractor
from stages.evaluate.neighbors import distance_metrics, distances_to
from stages.evaluate.params import PRETRAINED, Inputs
from stages.evaluate.protocol import FULL_RANK, describe
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
        return bool({"classifier", *(name for name, one in PRETRAINED.items() if one.logits)} & self.extractors.keys())

    def neighbor_metrics(self, images: ImageFeatures) -> dict[str, dict[str, float]]:
        """Distances to the nearest train image of the reference, in pixels and in features."""
        found = distances_to(images, self.reference.train)
        return {name: distance_metrics(one, self.reference.val_distances[name]) for name, one in found.items()}

    def describe(self, of: str, reference: str, labels: np.ndarray, **settings: Any) -> dict[str, Any]:
        """The protocol of images with `labels` int64 [count], against the split `reference`; of val images if val."""
        others = labels if reference == "val" else self.reference.labels
        return self._describe(of, reference, labels, others, settings)

    def describe_samples(self, of: str, labels: np.ndarray, **settings: Any) -> dict[str, Any]:
        """The protocol of generated samples with `labels` int64 [count]."""
        compared = self.reference.compared
        names = ("prc_neighbors", "density_neighbors")
        settings |= {name: self.reference.config[name] for name in names} | compared.facts
        return self._describe(of, compared.name, labels, compared.labels, settings)

    def _describe(
        self, of: str, reference: str, labels: np.ndarray, others: np.ndarray, settings: dict[str, Any]
    ) -> dict[str, Any]:
        config = self.reference.config
        settings = {"reference_seed": config["seed"], "pixel_px": config["pixel_px"], **settings}
        return describe(of, reference, self.images, labels, others, self.extractors, **settings)


def open_evaluator(inputs: Inputs, machine: Machine, device: torch.device) -> Evaluator:
    """Open the extractors that made the reference; one of other images or networks is an error."""
    sources = {"images": inputs.images, "encoder": inputs.encoder, "classifier": inputs.classifier}
    artifact.check_made_from(inputs.reference, "reference", **sources)
    artifact.check_made_from(inputs.classifier, "classifier", images=inputs.images)
    artifact.check_made_from(inputs.decoder, f"decoder@{inputs.decoder.name}", images=inputs.images)
    config = artifact.read_config(inputs.reference, REFERENCE_TYPE)
    extractors = open_extractors(inputs.encoder, inputs.classifier, device, config["extractors_from"])
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


def print_singular(stage: str, protocol: list[dict[str, Any]]) -> None:
    """A warning for each extractor with at least as many features as images: its FID depends on the count of images."""
    for entry in protocol:
        for name, facts in entry["extractors"].items():
            if facts["covariance"] != FULL_RANK:
                print(f"{stage}: {entry['of']}: warning: the covariance of fid[{name}] is {facts['covariance']}")
