"""A small convolutional classifier of real training images.

classifier = load_classifier("data/classifier")   # None for images without classes
features_BD, logits_BC = classifier(pixels_B3HW)

It shares nothing with the encoder or any tokenizer. Its classes give `class_accuracy` and the Inception score. FID in
its features favors no tokenizer.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artifact
from stages.core.networks import load_tensors

TYPE = "classifier"


def convolution(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
    """3x3 convolution, batch norm, ReLU."""
    return [nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU()]


class Classifier(nn.Module):
    """Convolutions at img_px and after each halving, pooled by mean and maximum over positions, then one linear map.

    The maximum lets a class show in one place; with the mean alone, training on cluttered scenes hardly starts.
    """

    def __init__(self, *, img_px: int, widths: list[int], num_classes: int):
        super().__init__()
        self.img_px, self.dim = img_px, 2 * widths[-1]
        layers = convolution(3, widths[0], 1)
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += convolution(width_in, width_out, 2)
            layers += [*convolution(width_out, width_out, 1), *convolution(width_out, width_out, 1)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(self.dim, num_classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, 3, H, W] in [-1, 1] -> features [B, dim], logits [B, classes]; larger images are averaged down."""
        maps = self.layers(F.adaptive_avg_pool2d(pixels, self.img_px) if pixels.shape[-1] > self.img_px else pixels)
        features = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
        return features, self.head(features)


def load_classifier(folder: str | Path, device: torch.device | str = "cpu") -> Classifier | None:
    """The network of a classifier artifact; None where the images have no classes."""
    config: dict[str, Any] = artifact.read_config(Path(folder), TYPE)
    if config["shape"] is None:
        return None
    network = Classifier(**config["shape"])
    network.load_state_dict(load_tensors(Path(folder), "model.safetensors"))
    return network.to(device).eval().requires_grad_(False)
