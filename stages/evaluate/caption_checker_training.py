"""Training of the caption checker on real images, in one process: its norms take the statistics of the whole batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError, artifact
from stages.core.distributed import epoch_batch
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.images import to_float
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves, write_metrics
from stages.core.schemas import Optim
from stages.core.scratch import scratch
from stages.core.train import Batch, fit
from stages.data.captions import Captions
from stages.data.reader import ImageSplit
from stages.data.scenes.attributes import ATTRIBUTES, UNKNOWN, attributes_of
from stages.evaluate.caption_checker import TYPE, CaptionChecker
from stages.evaluate.params import CaptionCheckerParams


class CheckerData:
    """The images of both splits, and what their captions say: `labels` {split: int64 [images, attributes]}."""

    def __init__(self, images: Path, optim: Optim, machine: Machine, device: torch.device):
        self.splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        self.labels = {split: attributes_in(images, split) for split in self.splits}
        self.optim, self.batch_size, self.device = optim, machine.infer_batch_size, device
        if not all((labels >= 0).any(0).all() for labels in self.labels.values()):
            names = ", ".join(ATTRIBUTES)
            raise UserError(f"{images}: expected captions of rendered scenes in both splits, which name {names}")

    def images_at(self, step: int) -> np.ndarray:
        """int64 [B]: numbers of the train images of a step."""
        optim = self.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(self, step: int) -> Batch:
        """Images uint8 [B, H, W, 3] and what their captions say, int64 [B, attributes]."""
        index = self.images_at(step)
        return torch.from_numpy(self.splits["train"].read(index)), torch.from_numpy(self.labels["train"][index])

    def batch_keys(self, step: int) -> list[str]:
        """The keys of the train images of a step."""
        return self.splits["train"].keys_of(self.images_at(step))

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of all attributes, the network under autocast."""
        with compute(self.device, self.optim.precision):
            logits = model(to_float(batch[0], self.device))
        return sum_of_losses(logits, batch[1]), {}

    def evaluate(self, step: int, model: nn.Module) -> dict[str, float]:
        """Accuracy on val by attribute."""
        val = self.splits["val"]
        found = read_images(model, len(val), val.read, self.batch_size, self.device)
        return {f"val/{name}": value for name, value in accuracies(found, self.labels["val"]).items()}


def train_checker(images: Path, out: Path, report: Path, params: CaptionCheckerParams, machine: Machine) -> None:
    """Write the artifact `out` and `report`/metrics.json; `UserError` where no train caption can be read."""
    device, curves = pick_device(machine.device), Curves()
    data = CheckerData(images, params.optim, machine, device)
    print_estimate(out, len(data.splits["train"]), params)
    torch.manual_seed(params.optim.seed)
    network = CaptionChecker(**shape_of(params)).to(device)
    with process_group(), scratch(out, params, [images], meet=barrier) as work:
        fit(
            network, params.optim, data.batch_at, data.loss, data.evaluate, curves, work=work, device=device,
            machine=machine.whole_batches(), name=f"caption_checker {out.name}", batch_keys=data.batch_keys,
        )  # fmt: skip
        last = curves.last()
        metrics = {name: last[f"val/{name}"] for name in (*ATTRIBUTES, "all")}
        write_metrics(report, {**metrics, "images": artifact.images_digest(images)})
        config = {"shape": shape_of(params), "val": metrics, "inputs": {"images": artifact.digest(images)}}
        with artifact.new_artifact(out, TYPE, config) as folder:
            save_tensors(folder / "model.safetensors", network.state_dict())


def shape_of(params: CaptionCheckerParams) -> dict[str, Any]:
    """The arguments of CaptionChecker."""
    sizes = {name: len(values) for name, values in ATTRIBUTES.items()}
    return {"img_px": params.img_px, "widths": params.widths, "attributes": sizes}


def attributes_in(images: Path, split: str) -> np.ndarray:
    """int64 [images, attributes]: what the first caption of each image says, UNKNOWN where it says nothing."""
    captions = Captions(images, split)
    nothing = [UNKNOWN] * len(ATTRIBUTES)
    found = [attributes_of(own[0]) if (own := captions.of(n)) else nothing for n in range(len(captions))]
    return np.array(found, np.int64)


def sum_of_losses(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of each attribute over the images whose captions name it, added up."""
    each = [F.cross_entropy(one.float(), labels[:, at], ignore_index=UNKNOWN, reduction="sum")
            / (labels[:, at] >= 0).sum().clamp(min=1) for at, one in enumerate(logits.values())]  # fmt: skip
    return torch.stack(each).sum()


def read_images(
    model: nn.Module, count: int, read: Callable[[range], np.ndarray], batch_size: int, device: torch.device
) -> np.ndarray:
    """int64 [count, attributes]: what the network reads; `read` returns the images of a range, uint8 [B, H, W, 3]."""
    found = []
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            logits = model(to_float(read(range(start, min(start + batch_size, count))), device))
            found.append(torch.stack([one.argmax(1) for one in logits.values()], 1).cpu().numpy())
    return np.concatenate(found)


def accuracies(found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{attribute: share of the images whose captions name it that show it; "all": that show all that theirs name}.

    int64 [M, attributes] each. An attribute that no caption names is left out.
    """
    right, named = found == labels, labels >= 0
    each = {name: float(right[named[:, at], at].mean()) for at, name in enumerate(ATTRIBUTES) if named[:, at].any()}
    some = named.any(1)
    return each | ({"all": float((right | ~named)[some].all(1).mean())} if some.any() else {})


def print_estimate(out: Path, train_images: int, params: CaptionCheckerParams) -> None:
    """As for the classifier."""
    activations = params.optim.batch_size * params.img_px**2 * max(params.widths) * 4 * 8
    print_cost_estimate(
        "caption_checker", out, {"images": train_images, "steps": params.optim.total_steps},
        disk_bytes=20 * 2**20, memory_bytes=600 * 2**20 + activations,
    )  # fmt: skip
