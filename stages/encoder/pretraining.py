"""Pretraining of an embedded encoder: views of the train images, the training, and the artifact that results."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import UserError, artifact
from stages.core.distributed import epoch_batch, seed_of
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.images import random_clouds, random_colors, random_light, random_maps, to_float, warp
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import LARGE_BASE_BYTES, print_cost_estimate
from stages.core.results import Curves
from stages.core.schemas import Optim
from stages.core.scratch import scratch
from stages.core.train import Batch, fit
from stages.data.reader import ImageSplit, image_facts
from stages.encoder.losses import Objective
from stages.encoder.params import PretrainParams, Views
from stages.encoder.vit import build_vit

SHAPE = {"patch_px", "dim", "depth", "heads"}
WEIGHTS = {"temperature", "dense_weight", "pixel_weight", "class_weight"}
STORE = {"fp32": torch.float32, "fp16": torch.float16}

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Inputs:
    """What one pretraining reads and writes."""

    name: str  # section of pretrain.yaml
    images: Path
    out: Path
    report: Path


def check(inputs: Inputs, params: PretrainParams) -> None:
    """Refuse images of another source, of a size that is no multiple of the patch size, or without needed classes."""
    facts, section = image_facts(inputs.images), f"pretrain.yaml: {inputs.name}"
    if facts["source"] != params.source:
        raise UserError(
            f"{section}.source = {params.source!r}: {inputs.images} holds images of source {facts['source']}. "
            f"Make others: `semtok set data.source={params.source}` and `dvc repro data`"
            + (", or all of the preset: `semtok set @presets/scenes.yaml`" if params.source == "scenes" else "")
        )
    if facts["img_px"] % params.patch_px:
        raise UserError(f"{section}.patch_px = {params.patch_px}: expected a divisor of img_px = {facts['img_px']}")
    if params.class_weight and not facts["classes"]:
        raise UserError(f"{section}.class_weight = {params.class_weight}: {inputs.images} has no classes; expected 0.0")


def pretrain(inputs: Inputs, params: PretrainParams, machine: Machine) -> None:
    """Train on the train split and write the backbone as an encoder artifact."""
    split, optim, curves = ImageSplit(inputs.images, "train", machine.num_workers), params.optim, Curves()
    estimate_cost(inputs.out, split, params)
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    shape = network_shape(split.img_px, params)
    backbone = build_vit(**shape, seed=optim.seed)
    weights = params.model_dump(include=WEIGHTS)
    model = Objective(backbone, params.dim, **weights, num_classes=len(split.classes)).to(device)
    with process_group(), scratch(inputs.out, params, [inputs.images], meet=barrier) as work:
        batch_at, batch_keys = batches(split, optim)
        fit(
            model, optim, batch_at, loss_fn(params.views, optim, device), lambda step, model: {}, curves,
            work=work, machine=machine.whole_batches(), device=device, name="pretrain", batch_keys=batch_keys,
        )  # fmt: skip
        curves.write(inputs.report, images=artifact.images_digest(inputs.images))
        publish(inputs, backbone, params, {**config_of(shape), "seed": optim.seed})


def network_shape(img_px: int, params: PretrainParams) -> dict[str, int]:
    """The arguments of `build_vit`."""
    shape = {"img_px": img_px, **params.model_dump(include=SHAPE)}
    return {**shape, "stem_blocks": params.stem_blocks} if params.stem_blocks else shape


def config_of(shape: dict[str, int]) -> dict[str, Any]:
    """The config of an encoder of this shape: pixels from -1 to 1, features in fp32."""
    sizes = {key: shape[key] for key in ("img_px", "patch_px", "dim", "depth")}
    return {**sizes, "precision": "fp32", "shape": shape, "mean": [0.5] * 3, "std": [0.5] * 3}


def publish(inputs: Inputs, backbone: nn.Module, params: PretrainParams, config: dict[str, Any]) -> None:
    """Write the encoder artifact, its weights in the number format of params.store."""
    state = {key: tensor.to(STORE[params.store]) for key, tensor in backbone.state_dict().items()}
    config = {"name": inputs.name, **config, "inputs": {"images": artifact.digest(inputs.images)}}
    with artifact.new_artifact(inputs.out, "encoder", config) as folder:
        save_tensors(folder / "model.safetensors", state)


def estimate_cost(out: Path, split: ImageSplit, params: PretrainParams) -> None:
    """Print the cost of the training."""
    optim = params.optim
    values = optim.batch_size * (split.img_px // params.patch_px) ** 2 * params.dim * params.depth
    counts = {"images": len(split), "steps": optim.total_steps}
    print_cost_estimate("pretrain", out, counts, disk_bytes=50 * 2**20, memory_bytes=LARGE_BASE_BYTES + values * 400)


def loss_fn(views: Views, optim: Optim, device: torch.device) -> Any:
    """The objective of two views under autocast; its cross-entropies and variances are computed in fp32."""

    def loss(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        pair, maps = views_at(step, to_float(images, device), views, optim)
        with compute(device, optim.precision):
            return model(pair, maps, labels)

    return loss


def batches(split: ImageSplit, optim: Optim) -> tuple[Callable[[int], Batch], Callable[[int], list[str]]]:
    """step -> images uint8 [B, H, W, 3] and their classes int64 [B]; step -> keys."""

    def index_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(split), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> Batch:
        index = index_at(step)
        return torch.from_numpy(split.read(index)), torch.as_tensor(split.labels[index])

    return batch_at, lambda step: split.keys_of(index_at(step))


def views_at(step: int, images: Tensor, views: Views, optim: Optim) -> tuple[Pair, Pair]:
    """Two random views of images float [B, 3, H, W] in [-1, 1], and the maps [B, 2, 3] that led to them."""
    strength = views.start_strength + (1 - views.start_strength) * min(
        1.0, step / max(1.0, views.ramp * optim.total_steps)
    )
    rng = torch.Generator().manual_seed(seed_of("views", optim.seed, step))
    first, second = (random_maps(len(images), views.affine, rng, strength).to(images.device) for _ in range(2))
    pair = [view(images, maps, views, strength, rng) for maps in (first, second)]
    return (pair[0], pair[1]), (first, second)


def view(images: Tensor, maps: Tensor, views: Views, strength: float, rng: torch.Generator) -> Tensor:
    """Images float [B, 3, H, W] in [-1, 1] warped by `maps` [B, 2, 3], with random colors, texture, light and noise."""
    augmented = warp(images, maps)
    if views.mix_colors or views.gray:
        augmented = random_colors(augmented, rng, mix=views.mix_colors * strength, gray=views.gray * strength)
    if views.clouds:
        augmented = random_clouds(augmented, rng, views.clouds * strength)
    light = {name: getattr(views, name) * strength for name in ("contrast", "brightness", "noise")}
    return random_light(augmented, rng, **light)
