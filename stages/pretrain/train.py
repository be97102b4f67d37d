"""Pre-train an embedded encoder on the train images: SimCLR with a dense term, no labels; or supervised, with them.

Run:    uv run semtok set @presets/scenes.yaml && uv run dvc repro data     (or the params of the digits)
        uv run python -m stages.pretrain.train --name scenes --images data/images --out weights/scenes \
            --curves reports/pretrain/scenes
        (frozen in dvc.yaml, because its few MB are in git)
Expect: 15 minutes on two cores for the digits, 20 on a busy one for either encoder of the scenes, 1.1 to 3.3 MB;
        see LOG.md for what they are worth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages.core import artefact, runtime
from stages.core.errors import UserError
from stages.core.loop import Optim, fit
from stages.core.params import Machine, Section, impossible, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts
from stages.pretrain.views import Views, batches

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

SHAPE = {"patch_px", "dim", "depth", "heads"}
WEIGHTS = {"temperature", "dense_weight", "pixel_weight", "class_weight"}


class Params(Section):
    source: Literal["digits", "scenes", "folder"]  # what the images artefact must hold
    patch_px: int = Field(ge=2)
    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    stem_blocks: int = Field(ge=0)
    temperature: float = Field(gt=0)
    dense_weight: float = Field(ge=0)
    pixel_weight: float = Field(ge=0)
    class_weight: float = Field(ge=0)  # 0: self-supervised
    store: Literal["fp32", "fp16"]
    views: Views
    optim: Optim

    @model_validator(mode="after")
    def shapes_fit(self) -> Params:
        if self.patch_px & (self.patch_px - 1):
            raise ValueError(f"patch_px = {self.patch_px}: expected a power of two (the stem halves the image)")
        step = 8 * self.patch_px * (2 if self.stem_blocks else 1)  # the stem's narrowest map has 8 channels or more
        if self.dim % step:
            raise ValueError(f"dim = {self.dim}: expected a multiple of {step} (patch_px = {self.patch_px})")
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


def pretrain(name: str, images: Path, out: Path, curves_out: Path, params: Params, machine: Machine) -> None:
    """Train on the train split of `images` and write the backbone's weights to `out`."""
    import torch

    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch
    from stages.pretrain.losses import Objective
    from stages.pretrain.model import build_vit

    split, optim, curves = ImageSplit(images, "train", machine.num_workers), params.optim, Curves()
    shape = {"img_px": split.img_px, **params.model_dump(include=SHAPE)}
    shape |= {"stem_blocks": params.stem_blocks} if params.stem_blocks else {}
    values = optim.batch_size * (split.img_px // params.patch_px) ** 2 * params.dim * params.depth
    counts = {"images": len(split), "steps": optim.total_steps}
    print_plan("pretrain", out, counts, disk_bytes=50 * 2**20, memory_bytes=10**9 + values * 400)
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    backbone = build_vit(**shape, seed=optim.seed)
    weights = params.model_dump(include=WEIGHTS)
    model = Objective(backbone, params.dim, **weights, num_classes=len(split.classes)).to(device)
    facts = {"shape": shape, "seed": optim.seed, "mean": [0.5] * 3, "std": [0.5] * 3, "images": artefact.digest(images)}
    with scratch(f"pretrain-{name}", params, [images]) as work:
        batch_at, batch_keys = batches(split, params.views, optim, device)
        fit(
            model, optim, batch_at, loss_fn(params, device), lambda step, model: {}, curves,
            work=work, checkpoint_secs=machine.checkpoint_secs, device=device, name="pretrain", batch_keys=batch_keys,
        )  # fmt: skip
        curves.write(curves_out)
        with artefact.new_artefact(out, "pretrained", facts) as folder:
            save(backbone, params, folder / "model.safetensors")


def save(backbone: VisionTransformer, params: Params, path: Path) -> None:
    """The weights in the number format that the params ask for."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16}[params.store]
    artefact.save_tensors(path, {key: tensor.to(dtype) for key, tensor in backbone.state_dict().items()})


def loss_fn(params: Params, device: torch.device) -> Any:
    """The objective under autocast; its cross-entropies and variances are computed in fp32."""
    from stages.core.device import compute

    def loss(model: torch.nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with compute(device, params.optim.precision):
            return model(*batch)

    return loss


def check(name: str, images: Path, params: Params) -> None:
    """Refuse images of another source, of a size that the patches do not divide, or without the classes needed."""
    facts = image_facts(images)
    if facts["source"] != params.source:
        raise UserError(
            f"{images}: holds images of source {facts['source']}, pretrain.{name} is for {params.source}. "
            f"Make them: `semtok set data.source={params.source}` and `dvc repro data`"
            + (", or all of its preset: `semtok set @presets/scenes.yaml`" if params.source == "scenes" else "")
        )
    if facts["img_px"] % params.patch_px:
        allowed = f"expected a divisor of img_px = {facts['img_px']}"
        raise impossible(f"pretrain.{name}.patch_px", params.patch_px, allowed)
    if params.class_weight and not facts["classes"]:
        raise impossible(f"pretrain.{name}.class_weight", params.class_weight, f"{images} has no classes; expected 0.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="section of params.yaml below `pretrain`")
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.add_argument("--curves", type=Path, required=True, help="where the training curves go")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load(f"pretrain.{args.name}", Params, args.params), load("machine", Machine, args.params)
    check(args.name, args.images, params)
    pretrain(args.name, args.images, args.out, args.curves, params, machine)


if __name__ == "__main__":
    runtime.run(main)
