"""A small convolutional network that reads shape, color and position of the main object from an image.

checker = load_checker("data/caption_checker/scenes")
logits = checker(pixels_B3HW)   # {"shape": float [B, 10], "color": …, "position": …}

It is trained on real images and their captions, and compares what a generated image shows with what its caption asked.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artifact
from stages.core.networks import load_tensors
from stages.evaluate.classifier import convolution

TYPE = "caption_checker"
GRID, CHANNELS = 8, 8  # of the map from which positions are read


class CaptionChecker(nn.Module):
    """Convolutions as in the classifier; a linear map per attribute of pooled features and of a coarse map of them.

    Pooled by mean and maximum over positions a shape or a color shows anywhere; the coarse map says where.
    """

    def __init__(self, *, img_px: int, widths: list[int], attributes: dict[str, int]):
        super().__init__()
        self.img_px, layers = img_px, convolution(3, widths[0], 1)
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += convolution(width_in, width_out, 2)
            layers += [*convolution(width_out, width_out, 1), *convolution(width_out, width_out, 1)]
        self.layers, last = nn.Sequential(*layers), widths[-1]
        self.coarse = nn.Sequential(nn.Conv2d(last, CHANNELS, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        dim = 2 * last + CHANNELS * GRID**2
        self.heads = nn.ModuleDict({name: nn.Linear(dim, values) for name, values in attributes.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """float [B, 3, H, W] in [-1, 1] -> {attribute: logits [B, values]}; larger images are averaged down."""
        maps = self.layers(F.adaptive_avg_pool2d(pixels, self.img_px) if pixels.shape[-1] > self.img_px else pixels)
        features = torch.cat([maps.mean((2, 3)), maps.amax((2, 3)), self.coarse(maps)], 1)
        return {name: head(features) for name, head in self.heads.items()}


def load_checker(folder: str | Path, device: torch.device | str = "cpu") -> CaptionChecker:
    """The network of a caption_checker artifact."""
    network = CaptionChecker(**artifact.read_config(Path(folder), TYPE)["shape"])
    network.load_state_dict(load_tensors(Path(folder), "model.safetensors"))
    return network.to(device).eval().requires_grad_(False)
