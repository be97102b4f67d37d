"""Pre-train the embedded encoder on the train images: SimCLR with a dense term, no labels.

Run:    dvc unfreeze pretrain && dvc repro --single-item pretrain && dvc freeze pretrain
        (frozen in dvc.yaml, because its few MB are in git)
Expect: 15 minutes on two cores for the digits; see LOG.md for what the encoder is worth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from stages.core import artefact, runtime
from stages.core.augment import Affine, random_light, random_maps, warp
from stages.core.errors import UserError
from stages.core.loop import Optim, epoch_batch, fit
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Views(Section):
    """What the two views of an image may differ in, at full strength."""

    affine: Affine
    contrast: float = Field(ge=0, lt=1)  # gain 1 ± contrast, pixels in [-1, 1]
    brightness: float = Field(ge=0, le=1)  # offset ± brightness
    noise: float = Field(ge=0, le=1)  # Gaussian sigma, at most
    start_strength: float = Field(ge=0, le=1)  # curriculum: ranges grow from this fraction …
    ramp: float = Field(ge=0, le=1)  # … to 1 over this fraction of the steps


class Params(Section):
    patch_px: int = Field(ge=2)
    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    temperature: float = Field(gt=0)
    dense_weight: float = Field(ge=0)
    views: Views
    optim: Optim

    @model_validator(mode="after")
    def shapes_fit(self) -> Params:
        if self.patch_px & (self.patch_px - 1):
            raise ValueError(f"patch_px = {self.patch_px}: expected a power of two (the stem halves the image)")
        if self.dim % (8 * self.patch_px):
            raise ValueError(f"dim = {self.dim}: expected a multiple of 8 * patch_px = {8 * self.patch_px}")
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


def pretrain(images: Path, out: Path, curves_out: Path, params: Params, machine: Machine) -> None:
    """Train on the train split of `images` and write the backbone's weights to `out`."""
    import torch
    from safetensors.torch import save_file

    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch
    from stages.pretrain.losses import Objective
    from stages.pretrain.model import build_vit

    split, optim, curves = ImageSplit(images, "train", machine.num_workers), params.optim, Curves()
    shape = {"img_px": split.img_px, **params.model_dump(include={"patch_px", "dim", "depth", "heads"})}
    values = optim.batch_size * (split.img_px // params.patch_px) ** 2 * params.dim * params.depth
    counts = {"images": len(split), "steps": optim.total_steps}
    print_plan("pretrain", out, counts, disk_bytes=50 * 2**20, memory_bytes=10**9 + values * 400)
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    backbone = build_vit(**shape, seed=optim.seed)
    model = Objective(backbone, params.dim, params.temperature, params.dense_weight).to(device)
    facts = {"shape": shape, "seed": optim.seed, "mean": [0.5] * 3, "std": [0.5] * 3, "images": artefact.digest(images)}
    with scratch("pretrain", params, [images]) as work:
        batch_at, batch_keys = batches(split, params, device)
        fit(
            model, optim, batch_at, loss_fn(params, device), lambda step, model: {}, curves,
            work=work, checkpoint_secs=machine.checkpoint_secs, device=device, name="pretrain", batch_keys=batch_keys,
        )  # fmt: skip
        curves.write(curves_out)
        with artefact.new_artefact(out, "pretrained", facts) as folder:
            state = {key: tensor.cpu().contiguous() for key, tensor in backbone.state_dict().items()}
            save_file(state, folder / "model.safetensors")


def batches(split: ImageSplit, params: Params, device: torch.device) -> tuple[Any, Any]:
    """step -> two views float [B, 3, H, W] in [-1, 1] and their maps [B, 2, 3]; step -> names of the images.

    Both are functions of the step alone.
    """
    import torch

    from stages.core.pixels import to_float
    from stages.core.rng import seed_of

    optim, views = params.optim, params.views
    ramp_steps = max(1.0, views.ramp * optim.total_steps)

    def index_at(step: int) -> np.ndarray:
        return epoch_batch(step, count=len(split), batch_size=optim.batch_size, seed=optim.seed)

    def batch_at(step: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        images = to_float(split.read(index_at(step)), device)
        strength = views.start_strength + (1 - views.start_strength) * min(1.0, step / ramp_steps)
        light = {name: getattr(views, name) * strength for name in ("contrast", "brightness", "noise")}
        rng = torch.Generator().manual_seed(seed_of("views", optim.seed, step))
        first, second = (random_maps(len(images), views.affine, rng, strength).to(device) for _ in range(2))
        pair = [random_light(warp(images, maps), rng, **light) for maps in (first, second)]
        return (pair[0], pair[1]), (first, second)

    return batch_at, lambda step: [split.keys[i] for i in index_at(step)]


def loss_fn(params: Params, device: torch.device) -> Any:
    """The objective under autocast; its cross-entropy and variances are computed in fp32."""
    from stages.core.device import compute

    def loss(model: torch.nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with compute(device, params.optim.precision):
            return model(*batch)

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.add_argument("--curves", type=Path, required=True, help="where the training curves go")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("pretrain", Params, args.params), load("machine", Machine, args.params)
    img_px = image_facts(args.images)["img_px"]
    if img_px % params.patch_px:
        raise UserError(
            f"{args.params}: pretrain.patch_px = {params.patch_px}: expected a divisor of img_px = {img_px}"
        )
    pretrain(args.images, args.out, args.curves, params, machine)


if __name__ == "__main__":
    runtime.run(main)
