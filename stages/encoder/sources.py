"""Sources of the encoder that need torch: a timm network with hub or local weights, an embedded one at another size."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained
from torch import nn

from stages.core import UserError, artifact
from stages.core.networks import load_tensors, save_tensors
from stages.core.params import impossible
from stages.encoder.embedded import is_embedded, refuse_weights, summary
from stages.encoder.encoder import create
from stages.encoder.hub import address, offline_advice, reach
from stages.encoder.params import EncoderParams
from stages.encoder.timm_networks import describe, one_line, refuse_uneven, warn_of_activation
from stages.encoder.vit import build_vit

METADATA = "semtok"  # key in the metadata of a file that import_weights wrote
STATISTICS = ("running_mean", "running_var")  # buffers of batch normalizations, which files of weights hold, too


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
        describe(params, imported(params).get("arguments", {}))
        warn_of_activation(params.name)
    else:
        refuse_weights(embedded, params)
        refuse_uneven(params, artifact.read_config(embedded / params.name, "encoder")["patch_px"])


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
    known = imported(params)
    _, facts = describe(params, known.get("arguments", {}))
    network = create(params.name, params.img_px, facts.get("arguments", {}))
    load_weights(network, params)
    return network, facts | ({"mean": known["mean"], "std": known["std"], "origin": known} if known else {})


def imported(params: EncoderParams) -> dict[str, Any]:
    """What `import_weights` wrote into the file of `encoder.weights`; empty for other files, and without one."""
    if not params.weights:
        return {}
    try:
        with safe_open(params.weights, "pt") as file:
            known = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError):  # load_weights says so
        return {}
    if known and known["name"] != params.name:
        raise impossible("encoder.name", params.name, f"{params.weights} was imported as {known['name']!r}")
    return known


def load_weights(vit: Any, params: EncoderParams) -> None:
    """Fill the network from the local file or the hub; timm renames tensors and resamples the position table.

    timm ignores missing tensors, so all are set to NaN first: a tensor that is still NaN was not in the file.
    """
    tensors = dict(vit.named_parameters()) | {key: one for key, one in vit.named_buffers() if key.endswith(STATISTICS)}
    with torch.no_grad():
        for tensor in tensors.values():
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
        raise UserError(_help(params, source, one_line(error))) from error
    if missing := [name for name, tensor in tensors.items() if tensor.isnan().any()]:
        raise UserError(_help(params, source, f"{len(missing)} tensors are not in it, such as {missing[0]}"))


def _help(params: EncoderParams, source: dict[str, Any], why: str) -> str:
    if params.weights:
        return f"params.yaml: encoder.weights = {params.weights!r}: does not fit {params.name}: {why}"
    advice = f" Offline: {offline_advice(source)}" if address(source) else " Set encoder.weights to a file of yours."
    return f"params.yaml: encoder.name = {params.name!r}: cannot open it with hub weights ({why}).{advice}"
