"""What the trainings of all tasks share: the images of a step, the images that are scored, the protocol."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.distributed import epoch_batch, random_subset, seed_of
from stages.core.hardware import compute
from stages.core.images import random_maps, to_float
from stages.core.params import Machine
from stages.core.schemas import Affine
from stages.core.train import Batch
from stages.recognition.params import AnyTask, Maps

SHOWN = 24  # val images in the picture


class TaskTrainer(ABC):
    """One task. `splits` {train, val} have len, classes, read(numbers) and keys_of(numbers)."""

    params: Any
    classes: list[str]
    logits_per_pixel = 0  # of tasks that predict pixels, for the memory

    def __init__(self, params: AnyTask, splits: dict[str, Any], machine: Machine, device: torch.device):
        self.params, self.splits, self.device, self.batch_size = params, splits, device, machine.infer_batch_size
        self.classes, self.img_px = splits["train"].classes, splits["train"].read([0]).shape[1]
        limits, seed = {"train": params.max_train_images, "val": params.max_val_images}, params.optim.seed
        self.numbers = {
            split: random_subset(len(one), limits[split] or len(one), seed) for split, one in splits.items()
        }

    def numbers_at(self, step: int) -> np.ndarray:
        """int64 [B]: the train images of a step."""
        numbers, optim = self.numbers["train"], self.params.optim
        return numbers[epoch_batch(step, count=len(numbers), batch_size=optim.batch_size, seed=optim.seed)]

    def batch_keys(self, step: int) -> list[str]:
        """The keys of the train images of a step."""
        return self.splits["train"].keys_of(self.numbers_at(step))

    def images_at(self, step: int) -> tuple[np.ndarray, Tensor]:
        """The numbers of the train images of a step, and the images uint8 [B, H, W, 3]."""
        numbers = self.numbers_at(step)
        return numbers, torch.from_numpy(self.splits["train"].read(numbers))

    def maps_at(self, step: int, augment: Affine) -> Tensor:
        """float [B, 2, 3]: the random affine maps of a step."""
        return random_maps(self.params.optim.batch_size, augment, self.draws(step))

    def draws(self, step: int) -> torch.Generator:
        """The random numbers of a step."""
        return torch.Generator().manual_seed(seed_of("recognition", self.params.optim.seed, step))

    def run(self, model: nn.Module, *inputs: Any) -> Any:
        """The network in training, under autocast."""
        with compute(self.device, self.params.optim.precision):
            return model(*inputs)

    def parts(self, split: str, count: int | None = None) -> Iterator[np.ndarray]:
        """The numbers of the images that are scored, or of the first of them, in batches."""
        numbers = self.numbers[split][:count]
        return (numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size))

    def found(self, model: nn.Module, part: np.ndarray) -> Any:
        """What the network gives for val images."""
        with torch.inference_mode():
            return model(to_float(self.splits["val"].read(part), self.device))

    # What a task defines:

    @abstractmethod
    def head(self, maps: Maps) -> nn.Module:
        """The head on the maps of a network."""

    @abstractmethod
    def batch_at(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch and scalars for the curves."""

    @abstractmethod
    def scores(self, model: nn.Module) -> dict[str, float]:
        """Metrics on val."""

    def bounds(self, grid: int) -> dict[str, float]:
        """What metrics can be read against; `grid`: the side of the network's maps."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """What tells this measurement from others."""
        counts = {f"{split}_images": len(numbers) for split, numbers in self.numbers.items()}
        return {**self.params.model_dump(), "img_px": self.img_px, "classes": len(self.classes), **counts}

    @abstractmethod
    def picture(self, model: nn.Module) -> tuple[np.ndarray, int]:
        """uint8 [M, H, W, 3] and how many stand in a row."""


def warp_labels(labels: Tensor, maps: Tensor) -> Tensor:
    """int64 [B, H, W] by the affine maps [B, 2, 3] of `warp`: nearest pixels, edges repeated."""
    grid = F.affine_grid(maps.to(labels.device), [len(labels), 1, *labels.shape[1:]], align_corners=False)
    moved = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved[:, 0].round().long()
