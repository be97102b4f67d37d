"""The frozen encoder as a feature space: the mean over the patches of its last block after the final norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor

from stages.core import artefact
from stages.core.pixels import to_float
from stages.core.spaces import POOLED, Space, create
from stages.encoder.model import load_encoder

EMBEDDED = "semtok-embedded"


class EmbeddedExtractor(FeatureExtractorBase):
    """The frozen encoder of this pipeline."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.encoder = load_encoder(feature_extractor_weights_path)
        self.last = self.encoder.config["depth"] - 1

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (POOLED,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """One layer for all; it has no logits, so no Inception score."""
        return POOLED

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: Tensor) -> tuple[Tensor]:
        """uint8 [B, 3, H, W] -> (float32 [B, D],)."""
        pixels = to_float(input.permute(0, 2, 3, 1), input.device)
        return (self.encoder(pixels, blocks=[self.last], final_norm=True)[0].mean(1),)


register_feature_extractor(EMBEDDED, EmbeddedExtractor)


def open_embedded(encoder: Path, device: torch.device) -> Space:
    """The feature space of an encoder artefact."""
    config = artefact.read_config(encoder, "encoder")
    network = create(EMBEDDED, [POOLED], str(encoder)).to(device)
    note = "embedded extractor: not comparable to published FID; the tokens come from the same encoder"
    facts = {"name": EMBEDDED, "weights_sha256": config["files"]["model.safetensors"], "dim": config["dim"],
             "features": f"{config['name']}: mean over patches, last block, final norm", "note": note}  # fmt: skip
    return Space(network, facts)
