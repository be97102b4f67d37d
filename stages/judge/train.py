"""Train the judge of agreement, a small convolutional classifier, on the real train images and their classes.

Run:    dvc repro judge
Expect: digits half a minute, scenes 2 minutes; accuracy on val in reports/judge/metrics.json. It should be near 1:
        what the judge does not see in real images, it cannot miss in made ones. Without classes there is no judge.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from stages.core import artefact, runtime
from stages.core.augment import Affine
from stages.core.loop import Optim, fit
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Params(Section):
    img_px: int = Field(ge=8)  # larger images are averaged down to it
    widths: list[int] = Field(min_length=1)  # channels at img_px, then after each halving
    augment: Affine
    optim: Optim

    @field_validator("widths")
    @classmethod
    def widths_are_positive(cls, widths: list[int]) -> list[int]:
        if any(width < 1 for width in widths):
            raise ValueError(f"{widths}: expected positive numbers of channels")
        return widths


def make(images: Path, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the judge artefact `out` and `report`/metrics.json; without classes they say that there is no judge."""
    if len(image_facts(images)["classes"]) > 1:
        train(images, out, report, params, machine)
    else:
        skip(images, out, report)


def train(images: Path, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Train it, publish it with its averaged weights, say how often it is right."""
    import torch

    from stages.core.batches import Batches
    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.figures import write_figures
    from stages.core.scratch import scratch
    from stages.judge.model import Judge

    splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
    shape = {"img_px": params.img_px, "widths": params.widths, "num_classes": len(splits["train"].classes)}
    config = {"shape": shape, "classes": splits["train"].classes, "inputs": {"images": artefact.digest(images)}}
    activations = params.optim.batch_size * params.img_px**2 * max(params.widths) * 4 * 8
    print_plan(
        "judge", out, {"images": len(splits["train"]), "steps": params.optim.total_steps},
        disk_bytes=20 * 2**20, memory_bytes=600 * 2**20 + activations,
    )  # fmt: skip
    device, curves = pick_device(machine.device), Curves()
    torch.manual_seed(params.optim.seed)
    network = Judge(**shape).to(device)
    with scratch("judge", params, [images]) as work:
        moved = Batches("judge", splits, params.augment, params.optim, device)

        def batch_at(step: int) -> tuple[Tensor, Tensor]:
            labels = splits["train"].labels[moved.batch_index(step)]
            return moved.batch_at(step), torch.from_numpy(labels).to(device)

        def watch(step: int, model: Any) -> dict[str, float]:
            return {"val/accuracy": accuracy(model, splits["val"], machine.infer_batch_size, device)}

        fit(
            network, params.optim, batch_at, loss_fn(params, device), watch, curves,
            work=work, checkpoint_secs=machine.checkpoint_secs, device=device, name="judge",
            batch_keys=moved.batch_keys,
        )  # fmt: skip
        figures = {"val_accuracy": curves.last()["val/accuracy"]}
        write_figures(report, figures)
        publish(out, network, {**config, **figures})


def publish(out: Path, network: torch.nn.Module | None, config: dict[str, Any]) -> None:
    """Make the artefact; without a network it only says that there is none."""
    with artefact.new_artefact(out, "judge", config) as folder:
        if network is not None:
            artefact.save_tensors(folder / "model.safetensors", network.state_dict())


def loss_fn(params: Params, device: torch.device) -> Any:
    """Cross-entropy of the classes under autocast."""
    from torch.nn import functional as F

    from stages.core.device import compute

    def loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with compute(device, params.optim.precision):
            logits = model(batch[0])[1]
        return F.cross_entropy(logits.float(), batch[1]), {}

    return loss


def accuracy(model: Any, split: ImageSplit, batch_size: int, device: torch.device) -> float:
    """Share of images whose class has the highest logit."""
    import numpy as np
    import torch

    from stages.core.pixels import to_float

    right = 0
    with torch.inference_mode():
        for part in np.array_split(np.arange(len(split)), -(-len(split) // batch_size)):
            seen = model(to_float(split.read(part), device))[1].argmax(1).cpu().numpy()
            right += int((seen == split.labels[part]).sum())
    return right / len(split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--out", type=Path, required=True, help="judge artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("judge", Params, args.params), load("machine", Machine, args.params)
    make(args.images, args.out, args.report, params, machine)


def skip(images: Path, out: Path, report: Path) -> None:
    """Say that images without classes have no judge."""
    from stages.core.figures import write_figures

    publish(out, None, {"shape": None, "classes": [], "inputs": {"images": artefact.digest(images)}})
    write_figures(report, {"skipped": "no classes"})


if __name__ == "__main__":
    runtime.run(main)
