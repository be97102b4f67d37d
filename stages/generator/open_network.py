"""The network of a generator artifact of any kind."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from stages.core import artifact
from stages.core.code import import_kind
from stages.generator.alternating_params import kind_named
from stages.generator.transformer import load_transformer


def open_network(folder: Path, device: torch.device | str) -> tuple[Any, dict[str, Any], ModuleType]:
    """The network in evaluation mode, the artifact's config, and the module of its kind, which samples from it.

    A kind whose network is no `TokenTransformer` has a function `load` of its own.
    """
    kind = import_kind(kind_named(artifact.read_config(folder, "generator")["kind"]).module)
    load = kind.load if hasattr(kind, "load") else load_transformer
    network, config = load(folder, device)
    return network, config, kind
