"""Training of the classifier of real images, in one process: its norms take the statistics of the whole batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artifact
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.images import Batches, augmented, to_float
from stages.core.metrics import count_train
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves, write_metrics
from stages.core.scratch import scratch
from stages.core.train import Batch, fit
from stages.data.reader import ImageSplit, image_facts
from stages.evaluate.classifier import TYPE, Classifier
from stages.evaluate.params import ClassifierParams


def train_classifier(images: Path, out: Path, report: Path, params: ClassifierParams, machine: Machine) -> None:
    """Write the artifact `out` and `report`/metrics.json; without classes both say that there is no classifier."""
    config = {"classes": image_facts(images)["classes"], "inputs": {"images": artifact.digest(images)}}
    if len(config["classes"]) > 1:
        _train(images, out, report, params, machine, config)
        return
    _publish(out, None, {"shape": None, **config})
    write_metrics(report, {"skipped": "no classes", "images": artifact.images_digest(images)})


def _train(
    images: Path, out: Path, report: Path, params: ClassifierParams, machine: Machine, config: dict[str, Any]
) -> None:
    """Train, publish the averaged weights, report the accuracy on val."""
    splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
    count_train(images, splits["train"].labels, config["classes"])
    shape = {"img_px": params.img_px, "widths": params.widths, "num_classes": len(config["classes"])}
    _print_cost_estimate(out, len(splits["train"]), params)
    device, curves = pick_device(machine.device), Curves()
    torch.manual_seed(params.optim.seed)
    network = Classifier(**shape).to(device)
    with process_group(), scratch(out, params, [images], meet=barrier) as work:
        batches = Batches("judge", splits, params.augment, params.optim)  # the word seeds the augmentation

        def batch_at(step: int) -> Batch:
            labels = splits["train"].labels[batches.batch_index(step)]
            return *batches.batch_at(step), torch.from_numpy(labels)

        def evaluate(step: int, model: nn.Module) -> dict[str, float]:
            return {"val/accuracy": accuracy(model, splits["val"], machine.infer_batch_size, device)}

        fit(
            network, params.optim, batch_at, loss_fn(params, device), evaluate, curves,
            work=work, machine=machine.whole_batches(), device=device, name="classifier",
            batch_keys=batches.batch_keys,
        )  # fmt: skip
        metrics = {"val_accuracy": curves.last()["val/accuracy"], "val_classes": len(np.unique(splits["val"].labels))}
        write_metrics(report, {**metrics, "images": artifact.images_digest(images)})
        _publish(out, network, {"shape": shape, **config, **metrics})


def _publish(out: Path, network: nn.Module | None, config: dict[str, Any]) -> None:
    """Write the artifact; without a network its config.json says that there is none."""
    with artifact.new_artifact(out, TYPE, config) as folder:
        if network is not None:
            save_tensors(folder / "model.safetensors", network.state_dict())


def loss_fn(
    params: ClassifierParams, device: torch.device
) -> Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, Tensor]]]:
    """Cross-entropy of the classes, the network under autocast."""

    def loss(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, maps, labels = batch
        pixels = augmented(images, maps)  # outside the block: its maps would be rounded to three digits
        with compute(device, params.optim.precision):
            logits = model(pixels)[1]
        return F.cross_entropy(logits.float(), labels), {}

    return loss


def accuracy(model: nn.Module, split: ImageSplit, batch_size: int, device: torch.device) -> float:
    """Share of images whose class has the highest logit."""
    right = 0
    with torch.inference_mode():
        for part in np.array_split(np.arange(len(split)), -(-len(split) // batch_size)):
            predicted = model(to_float(split.read(part), device))[1].argmax(1).cpu().numpy()
            right += int((predicted == split.labels[part]).sum())
    return right / len(split)


def _print_cost_estimate(out: Path, train_images: int, params: ClassifierParams) -> None:
    counts = {"images": train_images, "steps": params.optim.total_steps}
    print_cost_estimate("classifier", out, counts, disk_bytes=20 * 2**20, memory_bytes=params.peak_bytes())
