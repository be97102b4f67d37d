"""Feature spaces of FID, KID, IS and precision/recall, as extractors registered with torch-fidelity.

    from torch_fidelity import calculate_metrics
    import stages.evaluate.extractor                 # registers the names
    calculate_metrics(input1=…, input2=…, fid=True, cuda=False, cache=False,
                      feature_extractor="semtok-embedded", feature_extractor_weights_path="data/encoder")

torch-fidelity's own statistics cache is keyed by a name, not by content, and reads pickles: never switch it on.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from stages.core import artefact
from stages.core.errors import UserError
from stages.core.pixels import to_float
from stages.encoder.model import load_encoder
from stages.judge.model import load_judge

EMBEDDED, JUDGE, INCEPTION = "semtok-embedded", "semtok-judge", "semtok-inception-v3"
POOLED, LOGITS = "pooled", "logits"


class EmbeddedExtractor(FeatureExtractorBase):
    """The frozen encoder of this pipeline: mean over the patches of its last block after the final norm."""

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


class JudgeExtractor(FeatureExtractorBase):
    """The judge of agreement, which shares nothing with the tokenizers: pooled features and class logits."""

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


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception-v3, with weights from a safetensors file instead of a pickle."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs: Any):
        from safetensors.torch import load_file

        # The parent's constructor reads only what torch.save wrote; this buffer holds plain tensors and is our own.
        buffer = io.BytesIO()
        torch.save(load_file(feature_extractor_weights_path), buffer)
        buffer.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=buffer, **kwargs)


register_feature_extractor(EMBEDDED, EmbeddedExtractor)
register_feature_extractor(JUDGE, JudgeExtractor)
register_feature_extractor(INCEPTION, InceptionExtractor)


@dataclass(frozen=True)
class Space:
    """An extractor and what a protocol says about it. The first feature is for distances, the second has logits."""

    network: FeatureExtractorBase
    facts: dict[str, Any]

    def features(self, images_BHWC: Any) -> list[Tensor]:
        """uint8 [B, H, W, 3] numpy -> its features, float32 [B, …] on the CPU."""
        device = next(self.network.parameters()).device
        batch = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).contiguous().to(device)
        return [feature.float().cpu() for feature in self.network(batch)]


def open_spaces(encoder: Path, judge: Path, inception_weights: str, device: torch.device) -> dict[str, Space]:
    """{"embedded": …}, {"judge": …} where images have classes and, with a weights file, {"inception": …}."""
    spaces = {"embedded": open_embedded(encoder, device)}
    spaces |= {"judge": open_judge(judge, device)} if artefact.read_config(judge, "judge")["shape"] else {}
    return spaces | ({"inception": open_inception(Path(inception_weights), device)} if inception_weights else {})


def open_embedded(encoder: Path, device: torch.device) -> Space:
    """The feature space of an encoder artefact."""
    config = artefact.read_config(encoder, "encoder")
    network = create(EMBEDDED, [POOLED], str(encoder)).to(device)
    note = "embedded extractor: not comparable to published FID; the tokens come from the same encoder"
    facts = {"name": EMBEDDED, "weights_sha256": config["files"]["model.safetensors"], "dim": config["dim"],
             "features": f"{config['name']}: mean over patches, last block, final norm", "note": note}  # fmt: skip
    return Space(network, facts)


def open_judge(folder: Path, device: torch.device) -> Space:
    """The feature space of a judge artefact."""
    config = artefact.read_config(folder, "judge")
    network = create(JUDGE, [POOLED, LOGITS], str(folder)).to(device)
    note = "trained on this data set's classes: not comparable to published FID; no tokenizer knows it"
    dim = 2 * config["shape"]["widths"][-1]
    facts = {"name": JUDGE, "weights_sha256": config["files"]["model.safetensors"], "dim": dim,
             "features": "classifier of real train images: mean and maximum over positions", "note": note}  # fmt: skip
    return Space(network, facts)


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


def create(name: str, layers: list[str], weights: str) -> FeatureExtractorBase:
    """Build a registered extractor as torch-fidelity does."""
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, layers, cuda=False, feature_extractor_weights_path=weights, verbose=False)
