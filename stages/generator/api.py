"""Draw images in three lines.

from stages.generator import load_generator
generator = load_generator("data/generator/kmeans-ar")
sample = generator.sample(classes=[3, 3, 7], seed=0)     # sample.codes [3, N], sample.images uint8 [3, H, W, 3]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.core import artefact
from stages.core.errors import UserError
from stages.core.params import load
from stages.decoder.model import Decoder, load_decoder
from stages.generator.kinds import KINDS
from stages.generator.model import TokenTransformer, load_transformer
from stages.generator.settings import SETTINGS, ArSampling

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sample:
    codes: np.ndarray  # integers [B, N]
    images: np.ndarray  # uint8 [B, H, W, 3]


class Generator:
    """A trained generator together with a decoder for its codes."""

    def __init__(self, network: TokenTransformer, config: dict[str, Any], decoder: Decoder, settings: ArSampling):
        self.network, self.config, self.decoder, self.settings = network, config, decoder, settings
        self.classes: list[str] = config["classes"]

    def sample(self, classes: list[int | None], seed: int, **changes: Any) -> Sample:
        """One sample a class number (None: unconditional). `changes` replaces settings, such as temperature=0.9."""
        count = self.network.num_classes
        if bad := [c for c in classes if c is not None and not 0 <= c < count]:
            raise UserError(f"classes = {bad}: expected numbers from 0 to {count - 1}, or None")
        kind = KINDS[self.config["name"]]
        settings = type(self.settings)(**{**self.settings.model_dump(), **changes})
        labels = torch.tensor([count if c is None else c for c in classes], device=self.network.embed_position.device)
        codes = kind.sample(self.network, labels, settings, seed).cpu()
        images = self.decoder.decode(codes, torch.Generator().manual_seed(seed))
        return Sample(codes.numpy(), images)


def load_generator(
    folder: str | Path,
    decoder: str | Path | None = None,
    params: Path = Path("params.yaml"),
    device: torch.device | str = "cpu",
) -> Generator:
    """A generator artefact; without `decoder`, the one for its tokenizer. Default settings come from params.yaml."""
    network, config = load_transformer(Path(folder), device)
    chosen = Path(decoder) if decoder else only_decoder(Path(folder), config["tokenizer"])
    settings = load(f"samples.{config['name']}", SETTINGS[config["name"]], params)
    painter = load_decoder(chosen, device)
    if (paints := painter.config["tokenizer"]) != config["tokenizer"]:
        raise UserError(f"{chosen}: paints codes of {paints}, {folder} draws codes of {config['tokenizer']}")
    return Generator(network, config, painter, settings)


def only_decoder(folder: Path, tokenizer: str) -> Path:
    """The decoder beside the generator that takes the same tokenizer's codes; none or several is an error."""
    every = sorted(path.parent for path in folder.parent.parent.glob(f"decoder/*/{artefact.CONFIG}"))
    found = [path for path in every if artefact.read_config(path, "decoder")["tokenizer"] == tokenizer]
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"{folder}: decoders for its codes: {names}. "
            "Pass load_generator(…, decoder=PATH), or run `dvc repro decoder`."
        )
    return found[0]
