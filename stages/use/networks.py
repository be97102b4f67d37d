"""Devices, and which decoders decode a tokenizer's codes."""

import sys
from pathlib import Path
from typing import Any

import torch

from stages.core import UserError, artifact
from stages.decoder.decoder import codebook_of


def device_of(wanted: str) -> torch.device:
    """The device that --device names; `UserError` for one that is not there."""
    gpus = torch.cuda.device_count()
    if wanted == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"--device {wanted}: expected auto, cpu, cuda or cuda:NUMBER")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise UserError(f"--device {wanted}: this machine has {gpus} usable GPUs: use auto or cpu")
    return torch.device(wanted)


def fits(decoder: Path, name: str, digest: str | None) -> bool:
    """Whether a decoder decodes the codes of the tokenizer of this name whose artifact has this digest."""
    config = artifact.read_config(decoder, "decoder")
    return config["tokenizer"] == name and codebook_of(decoder) in (None, digest)


def first_fitting(decoders: list[Path], name: str, digest: str | None) -> Path:
    """The first decoder that fits a tokenizer; the user is told if there are others. `UserError` if none fits."""
    found = [path for path in decoders if fits(path, name, digest)]
    if not found:
        named = ", ".join(map(str, decoders)) or "none there"
        raise UserError(f"--decoder: none of {named} decodes the codes of this tokenizer {name}")
    if len(decoders) > 1:
        others = f", the first of {', '.join(map(str, found))}" if len(found) > 1 else ""
        note(f"decoder: {found[0]}{others}")
    return found[0]


def note(text: str) -> None:
    """Tell the user on stderr what was chosen for them."""
    print(text, file=sys.stderr)


def facts_of(tokenizer: Path) -> dict[str, Any]:
    """What codes.npz says about the tokenizer."""
    config = artifact.read_config(tokenizer, "codebook")
    keys = ("name", "kind", "num_codes", "num_patches", "grid")
    return {**{key: config[key] for key in keys}, "digest": artifact.digest(tokenizer)}
