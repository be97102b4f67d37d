"""Classes of images from the mean over patches: fine-tuning, or with a frozen network a linear probe."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError
from stages.core.distributed import seed_of, share_number
from stages.core.images import augmented
from stages.core.params import Machine
from stages.core.train import Batch
from stages.data.reader import ImageSplit
from stages.recognition.params import Data, Finetune, Maps
from stages.recognition.trainer import SHOWN, TaskTrainer


class ClassHead(nn.Module):
    """Mean over patches of the last chosen block, normalized by the batch, and a linear map."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(dim), nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.linear(self.norm(maps[-1].mean((2, 3))))


class Trainer(TaskTrainer):
    """Cross-entropy with mixed images and labels; the accuracy on val."""

    params: Finetune

    def __init__(self, params: Finetune, images: Path, data: Data, machine: Machine, device: torch.device):
        super().__init__(params, splits_of(images, machine), machine, device)
        mixing = params.mixing
        self.mixup = Mixup(mixing.mixup, mixing.cutmix, label_smoothing=mixing.label_smoothing,
                           num_classes=len(self.classes)) if mixing.mixup or mixing.cutmix else None  # fmt: skip

    def head(self, maps: Maps) -> nn.Module:
        return build_head(self.params, maps, len(self.classes), self.img_px)

    def batch_at(self, step: int) -> Batch:
        numbers, images = self.images_at(step)
        return images, self.maps_at(step, self.params.augment), torch.from_numpy(self.splits["train"].labels[numbers])

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, maps, labels = batch
        pixels, targets, smooth = augmented(images, maps), labels, self.params.mixing.label_smoothing
        if self.mixup:
            with numpy_seed(seed_of("mixup", self.params.optim.seed, step) + share_number()):
                pixels, targets = self.mixup(pixels, labels)
            smooth = 0.0  # it has smoothed them
        return F.cross_entropy(self.run(model, pixels).float(), targets, label_smoothing=smooth), {}

    def scores(self, model: nn.Module) -> dict[str, float]:
        right = sum(int((self.found(model, part).argmax(1).cpu().numpy() == self.splits["val"].labels[part]).sum())
                    for part in self.parts("val"))  # fmt: skip
        return {"accuracy": right / len(self.numbers["val"])}

    def bounds(self, grid: int) -> dict[str, float]:
        counts = np.bincount(self.splits["val"].labels[self.numbers["val"]])
        return {"chance[accuracy]": float(counts.max() / counts.sum())}

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "features": "mean over patches, batch normalization, linear"}

    def picture(self, model: nn.Module) -> tuple[np.ndarray, int]:
        """The val images whose class gets the lowest probability."""
        labels, share = self.splits["val"].labels, []
        for part in self.parts("val"):
            logits = self.found(model, part).softmax(1).cpu().numpy()
            share.append(logits[np.arange(len(part)), labels[part]])
        hardest = self.numbers["val"][np.concatenate(share).argsort(kind="stable")[:SHOWN]]
        return self.splits["val"].read(hardest), 8


def build_head(params: Finetune, maps: Maps, classes: int, img_px: int) -> nn.Module:
    """The head of a task of so many classes."""
    return ClassHead(maps.dims[-1], classes)


def splits_of(images: Path, machine: Machine) -> dict[str, ImageSplit]:
    """Both splits of an images artifact; `UserError` without classes, or for images without one."""
    splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
    if len(splits["train"].classes) < 2 or any((split.labels < 0).any() for split in splits.values()):
        raise UserError(f"{images}: expected a class for each image, of two or more")
    return splits


@contextmanager
def numpy_seed(seed: int) -> Generator[None]:
    """NumPy's global draws, which timm makes, from a seed; afterwards as if there had been none."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
