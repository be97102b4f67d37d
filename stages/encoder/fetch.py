"""Write the frozen encoder as an artefact: model.safetensors + config.json, the same whatever its source.

Run:    dvc repro encoder
Expect: seconds for embedded networks and local weights; one download for a timm name with hub weights.

Sources (params.yaml, section encoder):
    name: digits                                a small network that this repository pre-trained (weights/digits)
    name: vit_base_patch14_reg4_dinov2.lvd142m  any timm vision transformer, weights from its hub …
    weights: path/to/model.safetensors          … or from this file (offline)
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from stages.core import artefact, runtime
from stages.core.errors import UserError
from stages.core.params import Precision, Section, impossible, load

if TYPE_CHECKING:
    from torch import nn


class Params(Section):
    name: str = Field(min_length=1)
    weights: str
    img_px: int = Field(ge=8)
    precision: Precision

    @model_validator(mode="after")
    def weights_are_there(self) -> Params:
        if self.weights and (Path(self.weights).suffix != ".safetensors" or not Path(self.weights).is_file()):
            raise ValueError(
                f"weights = {self.weights!r}: expected an existing .safetensors file (pickles are never read)"
            )
        return self


def fetch(embedded: Path, out: Path, params: Params) -> None:
    """Write the encoder artefact `out`."""
    shipped = is_shipped(embedded, params)
    vit, config = open_embedded(embedded / params.name, params) if shipped else open_timm(params)
    config = {"name": params.name, "img_px": params.img_px, "precision": params.precision, **config}
    with artefact.new_artefact(out, "encoder", config) as folder:
        artefact.save_tensors(folder / "model.safetensors", vit.state_dict())
    count = sum(p.numel() for p in vit.parameters())
    print(
        f"encoder: {params.name}, {config['depth']} blocks of {config['dim']}, "
        f"patch {config['patch_px']} px, {count:,} parameters"
    )


def is_shipped(embedded: Path, params: Params) -> bool:
    """Whether the folder `embedded` holds the network of that name."""
    return (embedded / params.name / artefact.CONFIG).is_file()


def check(embedded: Path, params: Params) -> None:
    """Refuse an image size that the patches do not divide, before anything heavy is imported or downloaded."""
    if is_shipped(embedded, params):
        if params.weights:
            raise impossible("encoder.weights", params.weights, f"{params.name} has its own in {embedded}; expected ''")
        patch_px = artefact.read_config(embedded / params.name, "pretrained")["shape"]["patch_px"]
    elif found := re.search(r"patch(\d+)", params.name):
        patch_px = int(found[1])
    else:
        return  # open_timm looks at the network itself
    refuse_uneven(params, patch_px)


def refuse_uneven(params: Params, patch_px: int) -> None:
    """Raise unless the patches divide the image."""
    if params.img_px % patch_px:
        raise impossible("encoder.img_px", params.img_px, f"expected a multiple of the patch size, {patch_px} px")


def open_embedded(embedded: Path, params: Params) -> tuple[nn.Module, dict[str, Any]]:
    """The embedded network at the asked size (its position table is resampled) and its part of the config."""
    from timm.layers import resample_abs_pos_embed

    from stages.pretrain.model import build_vit

    trained = artefact.read_config(embedded, "pretrained")
    shape = {**trained["shape"], "img_px": params.img_px}
    state = {key: tensor.float() for key, tensor in artefact.load_tensors(embedded, "model.safetensors").items()}
    side = params.img_px // shape["patch_px"]
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side], num_prefix_tokens=0)
    vit = build_vit(**shape, seed=trained["seed"])
    vit.load_state_dict(state)
    facts = {key: shape[key] for key in ("patch_px", "dim", "depth")}
    return vit, {**facts, "shape": shape, **{key: trained[key] for key in ("seed", "mean", "std")}}


def open_timm(params: Params) -> tuple[nn.Module, dict[str, Any]]:
    """A timm network with pre-trained weights and its part of the config."""
    import timm

    try:
        vit: Any = timm.create_model(params.name, pretrained=False, img_size=params.img_px, num_classes=0)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise impossible(
            "encoder.name",
            params.name,
            f"not in weights/, and timm cannot make it ({_one_line(error)}); see timm.list_models('vit_*')",
        ) from None
    if not hasattr(vit, "forward_intermediates") or not hasattr(vit, "blocks"):
        raise impossible(
            "encoder.name", params.name, "expected a vision transformer (with .blocks and forward_intermediates)"
        )
    refuse_uneven(params, vit.patch_embed.patch_size[0])
    load_weights(vit, params)
    facts = {"patch_px": vit.patch_embed.patch_size[0], "dim": vit.embed_dim, "depth": len(vit.blocks)}
    return vit, {**facts, "mean": list(vit.pretrained_cfg["mean"]), "std": list(vit.pretrained_cfg["std"])}


def load_weights(vit: Any, params: Params) -> None:
    """Fill the network from the local file or the hub; timm renames tensors and resamples the position table.

    timm tolerates absent tensors, so all are spoilt first: what is still spoilt afterwards was not in the file.
    """
    import torch
    from timm.models import load_pretrained

    with torch.no_grad():
        for tensor in vit.parameters():
            tensor.fill_(torch.nan)
    # custom_load: where timm says so (augreg), it takes any file for JAX's, which ours never is.
    local = {"file": params.weights, "source": None, "custom_load": False}
    source = {**vit.pretrained_cfg, **(local if params.weights else {})}
    rename = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        load_pretrained(vit, pretrained_cfg=source, num_classes=0, filter_fn=rename, strict=False)
    except Exception as error:  # whatever timm, the hub or the file raise, the user needs the same advice
        raise UserError(_help(params, _one_line(error))) from error
    if absent := [name for name, tensor in vit.named_parameters() if tensor.isnan().any()]:
        raise UserError(_help(params, f"{len(absent)} tensors are not in it, such as {absent[0]}"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _help(params: Params, why: str) -> str:
    if params.weights:
        return f"params.yaml: encoder.weights = {params.weights!r}: does not fit {params.name}: {why}"
    return (
        f"params.yaml: encoder.name = {params.name!r}: cannot open it with hub weights ({why}). Offline: download "
        f"https://huggingface.co/timm/{params.name}/resolve/main/model.safetensors on another machine and set "
        "encoder.weights to that file's path."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", type=Path, required=True, help="folder of the networks in this repository")
    parser.add_argument("--out", type=Path, required=True, help="encoder artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params = load("encoder", Params, args.params)
    check(args.embedded, params)
    fetch(args.embedded, args.out, params)


if __name__ == "__main__":
    runtime.run(main)
