"""Feature extractors of FID, KID, IS and precision/recall, registered with torch-fidelity.

extractors = open_extractors("data/encoder", "data/classifier", device)
pooled_BD = extractors["embedded"].features(images_BHWC)[0]

They work in torch-fidelity's own commands, too, once this module is imported:

    calculate_metrics(input1=…, input2=…, fid=True, cuda=False, cache=False,
                      feature_extractor="semtok-embedded", feature_extractor_weights_path="data/encoder")

torch-fidelity's own statistics cache is keyed by a name, not by content, and reads pickles: never switch it on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from stages.core import UserError, artifact
from stages.core.images import to_float
from stages.encoder.encoder import load_encoder
from stages.evaluate.classifier import TYPE as CLASSIFIER_TYPE
from stages.evaluate.classifier import load_classifier
from stages.evaluate.params import PRETRAINED
from stages.evaluate.pretrained import PREFIX, class_of, weights_file

ENCODER, CLASSIFIER = PREFIX + "embedded", PREFIX + "classifier"  # registered names
POOLED, LOGITS = "pooled", "logits"
LAYERS = {"inception": ("2048", "logits_unbiased")}  # of others all that they provide
NOTES = {"inception": "comparable to published FID only with the same reference, crop and count"}


@dataclass(frozen=True)
class FeatureExtractor:
    """A network and its facts for the protocol. The first feature is for distances, the second has logits."""

    network: FeatureExtractorBase
    facts: dict[str, Any]

    def features(self, images_BHWC: np.ndarray) -> list[Tensor]:
        """uint8 [B, H, W, 3] -> its features, float32 [B, D] and, where it classifies, [B, classes], on the CPU."""
        device = next(self.network.parameters()).device
        batch = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).contiguous().to(device)
        return [feature.float().cpu() for feature in self.network(batch)]


class EncoderExtractor(FeatureExtractorBase):
    """The frozen encoder: mean over the patches of its last block after the final norm."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.encoder = load_encoder(feature_extractor_weights_path)
        self.last = self.encoder.config["depth"] - 1

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (POOLED,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """One layer for all metrics; it has no logits, so no Inception score."""
        return POOLED

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: Tensor) -> tuple[Tensor]:
        """uint8 [B, 3, H, W] -> (float32 [B, D],)."""
        pixels = to_float(input.permute(0, 2, 3, 1), input.device)
        return (self.encoder(pixels, blocks=[self.last], final_norm=True)[0].mean(1),)


class ClassifierExtractor(FeatureExtractorBase):
    """The classifier of real train images: pooled features and logits."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.classifier = load_classifier(feature_extractor_weights_path)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (POOLED, LOGITS)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == "isc" else POOLED

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, 3, H, W] -> the requested features, float32 [B, D] or [B, classes]."""
        assert self.classifier is not None, "images without classes have no classifier"
        found = self.classifier(to_float(input.permute(0, 2, 3, 1), input.device))
        return tuple(found[(POOLED, LOGITS).index(name)] for name in self.features_list)


register_feature_extractor(ENCODER, EncoderExtractor)
register_feature_extractor(CLASSIFIER, ClassifierExtractor)


def open_extractors(
    encoder: Path, classifier: Path, device: torch.device, pretrained: dict[str, str]
) -> dict[str, FeatureExtractor]:
    """{"embedded": …}, {"classifier": …} where images have classes, and those of `reference.extractors`."""
    own = {"embedded": open_encoder(encoder, device), **open_classifier(classifier, device)}
    return own | {name: open_pretrained(name, weights, device) for name, weights in pretrained.items()}


def open_encoder(folder: Path, device: torch.device) -> FeatureExtractor:
    """The extractor of an encoder artifact."""
    config = artifact.read_config(folder, "encoder")
    note = "embedded extractor: not comparable to published FID; the tokens come from the same encoder"
    facts = {"name": ENCODER, "weights_sha256": config["files"]["model.safetensors"], "dim": config["dim"],
             "features": f"{config['name']}: mean over patches, last block, final norm", "note": note}  # fmt: skip
    return FeatureExtractor(create(ENCODER, [POOLED], folder).to(device), facts)


def open_classifier(folder: Path, device: torch.device) -> dict[str, FeatureExtractor]:
    """{"classifier": the extractor of a classifier artifact}; empty where images have no classes."""
    config = artifact.read_config(folder, CLASSIFIER_TYPE)
    if config["shape"] is None:
        return {}
    note = "trained on this data set's classes: not comparable to published FID; shares nothing with any tokenizer"
    dim = 2 * config["shape"]["widths"][-1]
    facts = {"name": CLASSIFIER, "weights_sha256": config["files"]["model.safetensors"], "dim": dim,
             "features": "classifier of real train images: mean and maximum over positions", "note": note}  # fmt: skip
    return {"classifier": FeatureExtractor(create(CLASSIFIER, [POOLED, LOGITS], folder).to(device), facts)}


def open_pretrained(name: str, weights: str, device: torch.device) -> FeatureExtractor:
    """An extractor of PRETRAINED, from a file with its weights."""
    path, known = weights_file(name, weights), PRETRAINED[name]
    layers = list(LAYERS.get(name) or class_of(name).get_provided_features_list())
    try:
        network = create(PREFIX + name, layers, path).to(device)
    except (RuntimeError, OSError, KeyError, ValueError, AttributeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not the weights of {name} as safetensors: {why}") from None
    facts = {"name": PREFIX + name, "weights_sha256": artifact.sha256(path), "dim": known.dim,
             "features": known.features, "note": NOTES.get(name, "not comparable to published FID")}  # fmt: skip
    return FeatureExtractor(network, facts)


def create(name: str, layers: list[str], weights: Path) -> FeatureExtractorBase:
    """Build a registered extractor as torch-fidelity does."""
    return create_feature_extractor(
        name, layers, cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )
