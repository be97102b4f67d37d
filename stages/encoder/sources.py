"""Sources of the encoder: an embedded network of this repository, or a timm network with hub or local weights."""

import re
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained
from torch import nn

from stages.core import artifact
from stages.core.checkpoint import load_tensors, save_tensors
from stages.core.errors import UserError
from stages.core.params import impossible
from stages.encoder.params import EncoderParams
from stages.encoder.vit import build_vit


def fetch(embedded: Path, out: Path, params: EncoderParams) -> None:
    """Write the encoder artifact `out`."""
    own = is_embedded(embedded, params)
    vit, config = open_embedded(embedded / params.name, params) if own else open_timm(params)
    config = {"name": params.name, "img_px": params.img_px, "precision": params.precision, **config}
    with artifact.new_artifact(out, "encoder", config) as folder:
        save_tensors(folder / "model.safetensors", vit.state_dict())
    count = sum(p.numel() for p in vit.parameters())
    print(
        f"encoder: {params.name}, {config['depth']} blocks of {config['dim']}, "
        f"patch {config['patch_px']} px, {count:,} parameters"
    )


def is_embedded(embedded: Path, params: EncoderParams) -> bool:
    """True if the folder `embedded` holds the network of that name."""
    return (embedded / params.name / artifact.CONFIG).is_file()


def check(embedded: Path, params: EncoderParams) -> None:
    """Refuse an image size that is no multiple of the patch size, before anything is downloaded."""
    if is_embedded(embedded, params):
        if params.weights:
            raise impossible("encoder.weights", params.weights, f"{params.name} has its own in {embedded}; expected ''")
        refuse_uneven(params, artifact.read_config(embedded / params.name, "encoder")["patch_px"])
    elif found := re.search(r"patch(\d+)", params.name):
        refuse_uneven(params, int(found[1]))  # for other names, open_timm checks the network's patch size


def refuse_uneven(params: EncoderParams, patch_px: int) -> None:
    """Raise unless the image size is a multiple of the patch size."""
    if params.img_px % patch_px:
        raise impossible("encoder.img_px", params.img_px, f"expected a multiple of the patch size, {patch_px} px")


def open_embedded(embedded: Path, params: EncoderParams) -> tuple[nn.Module, dict[str, Any]]:
    """The embedded network for params.img_px, with a resampled position table, and its part of the config."""
    trained = artifact.read_config(embedded, "encoder")
    shape = {**trained["shape"], "img_px": params.img_px}
    state = {key: tensor.float() for key, tensor in load_tensors(embedded, "model.safetensors").items()}
    side = params.img_px // shape["patch_px"]
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side], num_prefix_tokens=0)
    vit = build_vit(**shape, seed=trained["seed"])
    vit.load_state_dict(state)
    facts = {key: shape[key] for key in ("patch_px", "dim", "depth")}
    return vit, {**facts, "shape": shape, **{key: trained[key] for key in ("seed", "mean", "std")}}


def open_timm(params: EncoderParams) -> tuple[nn.Module, dict[str, Any]]:
    """A timm network with pretrained weights and its part of the config."""
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


def load_weights(vit: Any, params: EncoderParams) -> None:
    """Fill the network from the local file or the hub; timm renames tensors and resamples the position table.

    timm ignores missing tensors, so all are set to NaN first: a tensor that is still NaN was not in the file.
    """
    with torch.no_grad():
        for tensor in vit.parameters():
            tensor.fill_(torch.nan)
    # custom_load: for some models (augreg) timm reads any file as a JAX checkpoint, which ours never is.
    local = {"file": params.weights, "source": None, "custom_load": False}
    source = {**vit.pretrained_cfg, **(local if params.weights else {})}
    rename = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        load_pretrained(vit, pretrained_cfg=source, num_classes=0, filter_fn=rename, strict=False)
    except Exception as error:  # whatever timm, the hub or the file raise, the user needs the same advice
        raise UserError(_help(params, _one_line(error))) from error
    if missing := [name for name, tensor in vit.named_parameters() if tensor.isnan().any()]:
        raise UserError(_help(params, f"{len(missing)} tensors are not in it, such as {missing[0]}"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _help(params: EncoderParams, why: str) -> str:
    if params.weights:
        return f"params.yaml: encoder.weights = {params.weights!r}: does not fit {params.name}: {why}"
    return (
        f"params.yaml: encoder.name = {params.name!r}: cannot open it with hub weights ({why}). Offline: download "
        f"https://huggingface.co/timm/{params.name}/resolve/main/model.safetensors on another machine and set "
        "encoder.weights to that file's path."
    )
