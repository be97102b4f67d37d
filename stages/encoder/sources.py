"""Sources of the encoder that need torch: a timm network with hub or local weights, an embedded one at another size."""

import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained
from torch import nn

from stages.core import UserError, artifact
from stages.core.networks import load_tensors, save_tensors
from stages.core.params import impossible
from stages.encoder.embedded import is_embedded, refuse_weights, summary
from stages.encoder.encoder import Encoder
from stages.encoder.hub import address, offline_advice, quickgelu_name, reach
from stages.encoder.params import EncoderParams
from stages.encoder.vit import build_vit

PLAIN = (
    "expected a plain vision transformer, with one grid of patches from the first block to the last, "
    "such as most of vit_*, deit*, beit*, eva*"
)


def fetch(embedded: Path, out: Path, params: EncoderParams) -> None:
    """Write the encoder artifact `out`."""
    check(embedded, params)
    own = is_embedded(embedded, params)
    vit, config = open_embedded(embedded / params.name, params) if own else open_timm(params)
    config = {"name": params.name, "img_px": params.img_px, "precision": params.precision, **config}
    with artifact.new_artifact(out, "encoder", config) as folder:
        save_tensors(folder / "model.safetensors", vit.state_dict())
    print(summary(params, config, sum(p.numel() for p in vit.parameters())))


def check(embedded: Path, params: EncoderParams) -> None:
    """Refuse a network that cannot be opened at this image size, before anything is downloaded."""
    if not is_embedded(embedded, params):
        check_timm(params)
    else:
        refuse_weights(embedded, params)
        refuse_uneven(params, artifact.read_config(embedded / params.name, "encoder")["patch_px"])


def check_timm(params: EncoderParams) -> None:
    """Run the timm network on torch's meta device, where numbers take no memory: every block must give the patches."""
    if not timm.is_model(params.name):
        raise impossible("encoder.name", params.name, "neither in weights/ nor in timm; see timm.list_models('vit_*')")
    try:
        with torch.device("meta"):
            vit, config = create_timm(params)
            refuse_uneven(params, config["patch_px"])
            encoder = Encoder(vit, {**config, "img_px": params.img_px})
            found = encoder.outputs(torch.empty(1, 3, params.img_px, params.img_px), list(range(config["depth"])))
    except UserError:
        raise
    except Exception as error:  # networks of other kinds fail anywhere in between
        raise impossible("encoder.name", params.name, f"{PLAIN} ({_one_line(error)})") from None
    shapes = {tuple(block.shape) for block in found}
    if shapes != {(1, encoder.grid**2, encoder.dim)}:
        raise impossible("encoder.name", params.name, f"{PLAIN} (features of shapes {sorted(shapes)})")
    if other := quickgelu_name(params.name):
        print(
            f"warning: encoder.name = {params.name!r}: these weights were trained with another activation (QuickGELU) "
            f"than this network computes. Use {other!r}.",
            file=sys.stderr,
        )


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
    vit, config = create_timm(params)
    load_weights(vit, params)
    return vit, config


def create_timm(params: EncoderParams) -> tuple[Any, dict[str, Any]]:
    """A timm network with initial weights and its part of the config."""
    vit: Any = timm.create_model(params.name, pretrained=False, img_size=params.img_px, num_classes=0)
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
        if not params.weights:
            reach(source)
        load_pretrained(vit, pretrained_cfg=source, num_classes=0, filter_fn=rename, strict=False)
    except Exception as error:  # whatever timm, the hub or the file raise, the user needs the same advice
        raise UserError(_help(params, source, _one_line(error))) from error
    if missing := [name for name, tensor in vit.named_parameters() if tensor.isnan().any()]:
        raise UserError(_help(params, source, f"{len(missing)} tensors are not in it, such as {missing[0]}"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _help(params: EncoderParams, source: dict[str, Any], why: str) -> str:
    if params.weights:
        return f"params.yaml: encoder.weights = {params.weights!r}: does not fit {params.name}: {why}"
    advice = f" Offline: {offline_advice(source)}" if address(source) else " Set encoder.weights to a file of yours."
    return f"params.yaml: encoder.name = {params.name!r}: cannot open it with hub weights ({why}).{advice}"
