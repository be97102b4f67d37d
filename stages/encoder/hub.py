"""Where timm's weights lie, whether that place answers, and which activation they were trained with."""

from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import is_model_pretrained

FILE = "model.safetensors"
TIMEOUT_SECS = 10


def address(source: dict[str, Any]) -> str:
    """The file of a network's `pretrained_cfg`: on the hub or elsewhere; "" if nobody published weights."""
    return hf_hub_url(repo, FILE) if (repo := source.get("hf_hub_id")) else source.get("url") or ""


def offline_advice(source: dict[str, Any]) -> str:
    """What a user without network does with the file at `address`."""
    where = address(source)
    if where.endswith(".safetensors"):
        return f"download {where} on another machine and set encoder.weights to that file's path."
    return f"download {where} on another machine and move it to {torch_cache(where)}."


def reach(source: dict[str, Any]) -> None:
    """Raise the network's error after one try, unless the file is here already; timm's download tries for a minute."""
    where, repo = address(source), source.get("hf_hub_id")
    if not where:
        raise ValueError("nobody published weights for it")
    if repo and not isinstance(try_to_load_from_cache(repo, FILE), str):
        try:
            get_hf_file_metadata(where, timeout=TIMEOUT_SECS)
        except HfHubHTTPError:
            pass  # the hub answers; timm asks it for other files, too
    elif not repo and not torch_cache(where).is_file():
        urlopen(Request(where, method="HEAD"), timeout=TIMEOUT_SECS).close()


def torch_cache(where: str) -> Path:
    """Where timm keeps a file that is not from the hub."""
    return Path(torch.hub.get_dir(), "checkpoints", where.rpartition("/")[2])


def quickgelu_name(name: str) -> str:
    """timm's name of the same CLIP weights with QuickGELU, their activation in training; "" if `name` is right."""
    network, tag = name.partition(".")[0], getattr(timm.get_pretrained_cfg(name), "tag", "")
    other = f"{network.replace('_clip_', '_clip_quickgelu_')}.{tag}"
    return other if is_model_pretrained(other) and not other.startswith(f"{network}.") else ""
