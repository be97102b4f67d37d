"""The feature spaces of an evaluation: those of the encoder and the judge, and published FID's Inception-v3."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from stages.core import artefact
from stages.core.errors import UserError
from stages.core.spaces import Space, create
from stages.encoder.space import open_embedded
from stages.judge.space import open_judge

INCEPTION = "semtok-inception-v3"


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3, with weights from a safetensors file instead of a pickle."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any):
        from safetensors.torch import load_file

        # The parent's constructor reads only what torch.save wrote; this buffer holds plain tensors and is our own.
        buffer = io.BytesIO()
        torch.save(load_file(feature_extractor_weights_path), buffer)
        buffer.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=buffer, **kwargs)


register_feature_extractor(INCEPTION, InceptionExtractor)


def open_spaces(encoder: Path, judge: Path, inception_weights: str, device: torch.device) -> dict[str, Space]:
    """{"embedded": …}, {"judge": …} where images have classes and, with a weights file, {"inception": …}."""
    spaces = {"embedded": open_embedded(encoder, device), **open_judge(judge, device)}
    return spaces | ({"inception": open_inception(Path(inception_weights), device)} if inception_weights else {})


def open_inception(weights: Path, device: torch.device) -> Space:
    """The feature space of published FID."""
    try:
        network = create(INCEPTION, ["2048", "logits_unbiased"], str(weights)).to(device)
    except (RuntimeError, OSError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{weights}: not torch-fidelity's Inception-v3 weights as safetensors: {why}") from None
    facts = {"name": INCEPTION, "weights_sha256": artefact.sha256(weights), "dim": 2048,
             "features": "Inception-v3 2048 and logits_unbiased, TF1 bilinear resize to 299 px",
             "note": "comparable to published FID only with the same reference, crop and count"}  # fmt: skip
    return Space(network, facts)
