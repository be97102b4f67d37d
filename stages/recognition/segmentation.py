"""A class per pixel: DINOv2's linear head, or UPerNet's; mean IoU beside what the grid of patches can reach."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.images import augmented
from stages.core.params import Machine
from stages.core.train import Batch
from stages.data.dvc_folder import NO_FOLDER
from stages.data.reader import image_facts
from stages.recognition.folders import Ade
from stages.recognition.miou import IGNORED, confusion, majority, scores
from stages.recognition.params import Data, Maps, Segmentation
from stages.recognition.pyramid import joined
from stages.recognition.scenes import Scenes
from stages.recognition.trainer import SHOWN, TaskTrainer, warp_labels


class LinearHead(nn.Module):
    """Batch normalization and a 1x1 convolution (DINOv2)."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(dim), nn.Conv2d(dim, classes, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.get_parameter("bias"))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[B, D, g, g] per block -> logits [B, K, g, g]."""
        return self.linear(self.norm(joined(maps)))


class Trainer(TaskTrainer):
    """Cross-entropy of logits that are enlarged bilinearly to the pixels."""

    params: Segmentation

    def __init__(self, params: Segmentation, images: Path, data: Data, machine: Machine, device: torch.device):
        super().__init__(params, splits_of(images, data, machine), machine, device)
        self.background = self.splits["train"].background
        self.logits_per_pixel = len(self.classes) + self.background

    def head(self, maps: Maps) -> nn.Module:
        return build_head(self.params, maps, self.logits_per_pixel, self.img_px)

    def batch_at(self, step: int) -> Batch:
        numbers, images = self.images_at(step)
        labels = torch.from_numpy(self.splits["train"].masks(numbers))
        return images, self.maps_at(step, self.params.augment), labels

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, maps, labels = batch
        logits = self.run(model, augmented(images, maps)).float()
        moved = warp_labels(labels, maps)
        each = F.cross_entropy(to_pixels(logits, self.img_px), moved, ignore_index=IGNORED, reduction="sum")
        return each / (moved != IGNORED).sum().clamp(min=1), {}

    def scores(self, model: nn.Module) -> dict[str, float]:
        counts = sum(confusion(self.splits["val"].masks(part), self.labels(model, part), self.logits_per_pixel)
                     for part in self.parts("val"))  # fmt: skip
        return scores(np.asarray(counts), self.background)

    def labels(self, model: nn.Module, part: np.ndarray) -> np.ndarray:
        """int64 [B, img_px, img_px]: the class with the highest logit."""
        return to_pixels(self.found(model, part).float(), self.img_px).argmax(1).cpu().numpy()

    def bounds(self, grid: int) -> dict[str, float]:
        """Of the most frequent label in each cell of the grid. Enlarged logits can be finer than that."""
        masks = (self.splits["val"].masks(part) for part in self.parts("val"))
        counts = sum(
            confusion(mask, majority(mask, grid, self.logits_per_pixel), self.logits_per_pixel) for mask in masks
        )
        return {f"ceiling[{name}]": value for name, value in scores(np.asarray(counts), self.background).items()}

    def protocol(self) -> dict[str, Any]:
        width = self.params.upernet_width
        return {**super().protocol(), "head": f"UPerNet of {width} channels" if width else "linear"}

    def picture(self, model: nn.Module) -> tuple[np.ndarray, int]:
        """Image, labels and predictions of the first val images."""
        part = self.numbers["val"][: SHOWN // 3 * 2]
        found = np.concatenate([self.labels(model, one) for one in np.array_split(part, -(-len(part) // 8))])
        rows = self.splits["val"].read(part), colored(self.splits["val"].masks(part)), colored(found)
        return np.stack(rows, 1).reshape(-1, *rows[0].shape[1:]), 12


def build_head(params: Segmentation, maps: Maps, classes: int, img_px: int) -> nn.Module:
    """The head of a task of so many classes, the background among them."""
    if params.upernet_width:
        from stages.recognition.upernet import UPerNet  # here, since it needs transformers

        return UPerNet(maps.dims, params.upernet_width, classes)
    return LinearHead(sum(maps.dims), classes)


def splits_of(images: Path, data: Data, machine: Machine) -> dict[str, Any]:
    """Both splits: of the folder that is named, else the scenes."""
    if data.segmentation == NO_FOLDER:
        return {split: Scenes(images, split, machine.num_workers) for split in ("train", "val")}
    img_px = image_facts(images)["img_px"]
    return {split: Ade(Path(data.segmentation), split, img_px, data.crop) for split in ("train", "val")}


def to_pixels(logits: Tensor, img_px: int) -> Tensor:
    """[B, K, h, w] -> [B, K, img_px, img_px], bilinear."""
    return F.interpolate(logits, size=img_px, mode="bilinear", align_corners=False)


def colored(labels: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] of labels int64 [B, H, W]: a hue per class, black for 0, white where ignored."""
    hues = np.stack([labels * 67 % 192 + 64, labels * 149 % 192 + 64, labels * 211 % 192 + 64], -1)
    hues[labels == 0], hues[labels == IGNORED] = 0, 255
    return hues.astype(np.uint8)
