"""The judge of agreement as a feature space that shares nothing with the tokenizers: pooled features, logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor

from stages.core import artefact
from stages.core.pixels import to_float
from stages.core.spaces import LOGITS, POOLED, Space, create
from stages.judge.model import load_judge

JUDGE = "semtok-judge"


class JudgeExtractor(FeatureExtractorBase):
    """The classifier of real train images."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.judge = load_judge(feature_extractor_weights_path)

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
        """uint8 [B, 3, H, W] -> the features asked for, float32 [B, D] or [B, classes]."""
        assert self.judge is not None, "images without classes have no judge"
        found = self.judge(to_float(input.permute(0, 2, 3, 1), input.device))
        return tuple(found[(POOLED, LOGITS).index(name)] for name in self.features_list)


register_feature_extractor(JUDGE, JudgeExtractor)


def open_judge(folder: Path, device: torch.device) -> dict[str, Space]:
    """{"judge": the feature space of a judge artefact}; empty where images have no classes."""
    config = artefact.read_config(folder, "judge")
    if config["shape"] is None:
        return {}
    network = create(JUDGE, [POOLED, LOGITS], str(folder)).to(device)
    note = "trained on this data set's classes: not comparable to published FID; no tokenizer knows it"
    dim = 2 * config["shape"]["widths"][-1]
    facts = {"name": JUDGE, "weights_sha256": config["files"]["model.safetensors"], "dim": dim,
             "features": "classifier of real train images: mean and maximum over positions", "note": note}  # fmt: skip
    return {"judge": Space(network, facts)}
