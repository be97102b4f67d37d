"""Training of one task on one network, in one process: norms take the statistics of the whole batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.core import artifact
from stages.core.code import import_kind
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves, enlarge, grid, save_png
from stages.core.scratch import scratch
from stages.core.train import fit
from stages.data.reader import image_facts
from stages.recognition.backbone import Backbone, load_backbone
from stages.recognition.folders import digest
from stages.recognition.params import KINDS, AnyTask, Data, Network
from stages.recognition.recognizer import Recognizer

DISK_BYTES = 20 * 2**20


@dataclass(frozen=True)
class Inputs:
    """A task and a network by their names in params.yaml, artifacts, and the folder for metrics, curves, pictures."""

    task: str
    network: str
    images: Path
    folder: Path
    report: Path


def train(inputs: Inputs, params: AnyTask, network: Network, data: Data, machine: Machine) -> None:
    """Train head and perhaps network; leave metrics.json, curves and a picture in the report."""
    device, out, curves = pick_device(machine.device), inputs.report / "pictures", Curves()
    trainer = import_kind(KINDS[params.kind].module).Trainer(params, inputs.images, data, machine, device)
    img_px = image_facts(inputs.images)["img_px"]
    torch.manual_seed(params.optim.seed)
    backbone = load_backbone(inputs.network, network, inputs.folder, img_px, device)
    model = Recognizer(backbone, trainer.head(backbone.maps), params.tuning).to(device)
    announce(inputs, params, model, trainer)
    images, folders = artifact.images_digest(inputs.images), digest(trainer.splits)
    facts = f"{data.model_dump()} {network.model_dump()} {folders}"
    with process_group(), scratch(out, params, [inputs.images, inputs.folder], facts, meet=barrier) as work:

        def evaluate(step: int, model: nn.Module) -> dict[str, float]:
            return {f"val/{name}": value for name, value in trainer.scores(model).items()}

        fit(
            model, params.optim, trainer.batch_at, trainer.loss, evaluate, curves, work=work, device=device,
            machine=machine.whole_batches(), name=f"{inputs.task} {inputs.network}", batch_keys=trainer.batch_keys,
        )  # fmt: skip
        pictures, columns = trainer.picture(model)
        save_png(out / f"{params.kind}.png", grid(pictures, columns, enlarge(pictures.shape[1])))
        curves.write(inputs.report, images, metrics_of(trainer, model, backbone, network, curves, folders))


def metrics_of(
    trainer: Any, model: nn.Module, backbone: Backbone, network: Network, curves: Curves, folders: str
) -> dict[str, Any]:
    """What metrics.json holds beside the digest of the images."""
    last = {name.removeprefix("val/"): value for name, value in curves.last().items() if name.startswith("val/")}
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    protocol = {**trainer.protocol(), "network": network.model_dump(), "grid": backbone.grid, "folder_digest": folders}
    bounds = trainer.bounds(backbone.grid)
    return {**last, **bounds, "trained_parameters": trained, "protocol": [protocol]}


def announce(inputs: Inputs, params: AnyTask, model: Recognizer, trainer: Any) -> None:
    """Print what the training costs."""
    network, head = (sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.head))
    memory = params.peak_bytes(network, head, model.backbone.maps, trainer.img_px, trainer.logits_per_pixel)
    counts = {"images": len(trainer.numbers["train"]), "steps": params.optim.total_steps}
    print_cost_estimate(f"{inputs.task} on {inputs.network}", inputs.report, counts, DISK_BYTES, memory)
