"""Feature spaces of FID, KID, IS and precision/recall, as extractors registered with torch-fidelity.

Who writes a network's artefact registers its extractor: stages/encoder/space.py, stages/judge/space.py.

    from torch_fidelity import calculate_metrics
    import stages.encoder.space                      # registers the name
    calculate_metrics(input1=…, input2=…, fid=True, cuda=False, cache=False,
                      feature_extractor="semtok-embedded", feature_extractor_weights_path="data/encoder")

torch-fidelity's own statistics cache is keyed by a name, not by content, and reads pickles: never switch it on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

POOLED, LOGITS = "pooled", "logits"


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


def create(name: str, layers: list[str], weights: str) -> FeatureExtractorBase:
    """Build a registered extractor as torch-fidelity does."""
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, layers, cuda=False, feature_extractor_weights_path=weights, verbose=False)
