"""Floating-point operations of the feature extractors that others trained."""

from functools import cache
from typing import Any

import torch

from stages.cost_networks import count
from stages.evaluate.params import PRETRAINED


@cache
def pretrained_flops(name: str) -> int:
    """Of one image through an extractor of `reference.extractors`, at its own size."""
    import timm

    of = PRETRAINED[name]
    size: dict[str, Any] = {"img_size": of.px} if of.timm.startswith("vit_") else {}
    return count(lambda: timm.create_model(of.timm, pretrained=False, **size).eval()(torch.empty(1, 3, of.px, of.px)))
