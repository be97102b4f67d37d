"""Feature extractors of FID, KID, IS and precision/recall.

extractors = open_extractors("data/encoder", "data/classifier", device, {})
pooled_BD = extractors["embedded"].features(images_BHWC)[0]
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import UserError, artifact
from stages.core.images import to_float
from stages.encoder.encoder import load_encoder
from stages.evaluate.classifier import TYPE as CLASSIFIER_TYPE
from stages.evaluate.classifier import load_classifier
from stages.evaluate.params import PREFIX

LARGE = 4096  # values of a tensor that two networks do not share by chance


@dataclass(frozen=True)
class FeatureExtractor:
    """A network and its facts for the protocol. The first feature is for distances, the second has logits."""

    network: nn.Module
    facts: dict[str, Any]

    def features(self, images_BHWC: np.ndarray) -> list[Tensor]:
        """uint8 [B, H, W, 3] -> its features, float32 [B, D] and, where it classifies, [B, classes], on the CPU."""
        device = next(self.network.parameters()).device
        batch = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).contiguous().to(device)
        return [feature.float().cpu() for feature in self.network(batch)]


class EncoderExtractor(nn.Module):
    """The frozen encoder: mean over the patches of its last block after the final norm. It has no logits."""

    def __init__(self, folder: Path):
        super().__init__()
        self.encoder = load_encoder(folder)
        self.last = self.encoder.config["depth"] - 1

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """uint8 [B, 3, H, W] -> (float32 [B, D],)."""
        pixels = to_float(images.permute(0, 2, 3, 1), images.device)
        return (self.encoder(pixels, blocks=[self.last], final_norm=True)[0].mean(1),)


class ClassifierExtractor(nn.Module):
    """The classifier of real train images: pooled features and logits."""

    def __init__(self, folder: Path):
        super().__init__()
        classifier = load_classifier(folder)
        assert classifier is not None, "images without classes have no classifier"
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, 3, H, W] -> float32 [B, D] and [B, classes]."""
        return self.classifier(to_float(images.permute(0, 2, 3, 1), images.device))


def open_extractors(
    encoder: Path, classifier: Path, device: torch.device, pretrained: dict[str, str]
) -> dict[str, FeatureExtractor]:
    """{"embedded": …}, {"classifier": …} where images have classes, and those of `reference.extractors`."""
    own = {"embedded": open_encoder(encoder, device), **open_classifier(classifier, device)}
    if not pretrained:
        return own
    from stages.evaluate.pretrained import open_pretrained  # torch-fidelity, with torchvision and torch's compiler

    found = {name: FeatureExtractor(*open_pretrained(name, file, device)) for name, file in pretrained.items()}
    for name, extractor in found.items():
        refuse_same(name, own["embedded"].network, extractor.network)
    return own | found


def refuse_same(name: str, encoder: nn.Module, extractor: nn.Module) -> None:
    """`UserError` if the two networks share a tensor by its content, whatever their files and names of tensors are."""
    if tensors_of(encoder) & tensors_of(extractor):
        why = "it is the encoder, in whose features its own tokens look best; expected another extractor or encoder"
        raise UserError(f"params.yaml: reference.extractors.{name}: {why}")


def tensors_of(network: nn.Module) -> set[str]:
    """sha256 of each large matrix or kernel of a network, as float32."""
    large = (one for one in network.parameters() if one.ndim > 1 and one.numel() >= LARGE)
    return {hashlib.sha256(one.detach().float().cpu().numpy().tobytes()).hexdigest() for one in large}


def named(config: dict[str, Any]) -> str:
    """The encoder's name, and where its weights come from if they were imported."""
    return config["name"] + (f" ({config['origin']['origin']})" if "origin" in config else "")


def open_encoder(folder: Path, device: torch.device) -> FeatureExtractor:
    """The extractor of an encoder artifact."""
    config = artifact.read_config(folder, "encoder")
    note = "embedded extractor: not comparable to published FID; the tokens come from the same encoder"
    facts = {"name": PREFIX + "embedded", "weights_sha256": config["files"]["model.safetensors"], "dim": config["dim"],
             "features": f"{named(config)}: mean over patches, last block, final norm", "note": note}  # fmt: skip
    return FeatureExtractor(EncoderExtractor(folder).to(device), facts)


def open_classifier(folder: Path, device: torch.device) -> dict[str, FeatureExtractor]:
    """{"classifier": the extractor of a classifier artifact}; empty where images have no classes."""
    config = artifact.read_config(folder, CLASSIFIER_TYPE)
    if config["shape"] is None:
        return {}
    note = "trained on this data set's classes: not comparable to published FID; shares nothing with any tokenizer"
    dim = 2 * config["shape"]["widths"][-1]
    facts = {"name": PREFIX + "classifier", "weights_sha256": config["files"]["model.safetensors"], "dim": dim,
             "features": "classifier of real train images: mean and maximum over positions", "note": note}  # fmt: skip
    return {"classifier": FeatureExtractor(ClassifierExtractor(folder).to(device), facts)}
