"""What `import_weights` does: open the file, fit it to the architecture, run it, write it with its facts."""

import argparse
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import nn

from stages.core import UserError, artifact
from stages.core.artifact import write_atomically
from stages.encoder.foreign_weights import fit, read
from stages.encoder.packages import PACKAGES, file_of
from stages.encoder.sources import METADATA


def import_file(args: argparse.Namespace) -> None:
    """Write `args.out` from `args.source`; the other arguments are those of the command."""
    facts = facts_of(args)
    source = facts.pop("path")
    network, state = open_network(source, facts)
    check_run(network, facts)
    facts |= {"source": source.name, "source_sha256": artifact.sha256(source)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, save(state, {METADATA: json.dumps(facts)}))
    print(f"{args.out}: {facts['name']}, {len(state)} tensors, from {facts['origin']}, license {facts['license']}")
    own = args.out.stem
    print(f"semtok set weights.{own}={args.out} encoder.weights={own} encoder.name={facts['name']}")


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the file will say of itself, and the `path` of its source."""
    package = PACKAGES.get(args.source)
    facts: dict[str, Any] = {"path": file_of(args.source) if package else Path(args.source)}
    for key in ("name", "part", "mean", "std", "origin", "license"):
        given = getattr(args, key)
        facts[key] = getattr(package, key, None) if given is None else given
    if missing := [f"--{key}" for key in ("name", "origin", "license") if not facts[key]]:
        raise UserError(f"{args.source}: of a file, {', '.join(missing)} must be given")
    if not timm.is_model(facts["name"]):
        raise UserError(f"--name {facts['name']}: no architecture of timm; see timm.list_models()")
    known = timm.get_pretrained_cfg(facts["name"])
    own = {"mean": known.mean if known else None, "std": known.std if known else None}
    facts |= {key: list(facts[key] or own[key] or (0.5,) * 3) for key in ("mean", "std")}
    return {**facts, "part": facts["part"] or "", "arguments": dict(map(argument, args.argument or []))}


def argument(text: str) -> tuple[str, Any]:
    """A key and a value, which is a number or a word."""
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals:
        raise UserError(f"--argument {text}: expected KEY=VALUE, such as bn_eps=0.001")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def open_network(source: Path, facts: dict[str, Any]) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The architecture with the weights of the file, with its classifier if they are there, and its tensors."""
    found, why = read(source, facts["part"]), []
    headless: dict[str, Any] = {"num_classes": 0}
    for classes in ({}, headless):
        try:
            network = timm.create_model(facts["name"], pretrained=False, **classes, **facts["arguments"])
            state = fit(found, network.state_dict(), ordered=source.suffix != ".safetensors")
            network.load_state_dict(state)
            return network.eval(), state
        except (ValueError, TypeError, RuntimeError) as error:
            why.append(" ".join(str(error).split())[:200])
    raise UserError(f"{source}: does not fit {facts['name']}: {why[-1]}; with its classifier: {why[0]}")


@torch.inference_mode()
def check_run(network: Any, facts: dict[str, Any]) -> None:
    """`UserError` if the features of a random image are not finite numbers, or all the same."""
    px = network.pretrained_cfg["input_size"][-1]
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
    pixels = torch.rand(1, 3, px, px, generator=torch.Generator().manual_seed(0))
    features = network.forward_features((pixels - mean) / std)
    if not features.isfinite().all() or features.std() == 0:
        raise UserError(
            f"{facts['name']}: with these weights the features of an image are no finite, differing numbers"
        )
