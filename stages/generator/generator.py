"""Draw images from a generator and a decoder.

generator = load_generator("data/generator/kmeans-ar")
sample = generator.sample(classes=[3, "seven", None], seed=0)   # sample.codes [3, N], sample.images uint8 [3, H, W, 3]
"""

import operator
import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.params import Precision
from stages.decoder.decoder import Decoder, check_drawn, codebook_of, load_decoder
from stages.generator.params import KINDS, Sampling
from stages.generator.transformer import TokenTransformer, check_unconditional, load_transformer

NAMES_SHOWN = 20  # class names in an error message


@dataclass(frozen=True)
class Sample:
    codes: np.ndarray  # int64 [B, N]
    images: np.ndarray  # uint8 [B, H, W, 3]


class Generator:
    """A trained generator with a decoder for its codes and its sampling settings."""

    def __init__(self, network: TokenTransformer, config: dict[str, Any], decoder: Decoder, sampling: Sampling):
        self.network, self.config, self.decoder, self.sampling = network, config, decoder, sampling
        self.kind = import_kind(KINDS[config["kind"]].module)
        self.classes: list[str] = config["classes"]

    def sample(self, classes: list[int | str | None], seed: int = 0, **changes: Any) -> Sample:
        """One sample per entry of `classes`: a class name, a class number, or None for an unconditional sample.

        `changes` replaces sampling settings, such as temperature=0.9.
        """
        sampling = changed(self.sampling, changes)
        if None in classes or sampling.guidance != 1:
            check_unconditional("this generator", self.config, f"None or guidance {sampling.guidance}")
        labels = torch.tensor([self.class_number(one) for one in classes], device=self.network.device)
        codes = self.kind.sample(self.network, labels, sampling, seed).cpu()
        return Sample(codes.numpy(), self.decoder.decode(codes, torch.Generator().manual_seed(seed)))

    def class_number(self, given: int | str | None) -> int:
        """The number of a class given by name or number; num_classes for None."""
        count = self.network.num_classes
        if given is None:
            return count
        if isinstance(given, str):
            if given not in self.classes:
                raise UserError(unknown_class(given, self.classes))
            return self.classes.index(given)
        if not 0 <= (number := operator.index(given)) < count:
            raise UserError(f"class {number}: expected a number from 0 to {count - 1}, a class name, or None")
        return number


def unknown_class(name: str, classes: list[str]) -> str:
    """The message for a class name that does not exist: the closest names, else the first ones."""
    close = get_close_matches(name, classes)
    shown = ", ".join(close or classes[:NAMES_SHOWN]) or "no classes: use None"
    more = "" if close or len(classes) <= NAMES_SHOWN else f", … ({len(classes)} names)"
    return f"class {name!r}: unknown; {'did you mean' if close else 'there is'} {shown}{more}{'?' if close else ''}"


def changed(sampling: Sampling, changes: dict[str, Any]) -> Sampling:
    """The settings with some values replaced; `UserError` for an unknown or impossible one."""
    try:
        return type(sampling)(**{**sampling.model_dump(), **changes})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()]
        known = ", ".join(type(sampling).model_fields)
        raise UserError(f"sampling: {'; '.join(lines)}; the settings are {known}") from None


def load_generator(
    folder: str | Path,
    decoder: str | Path | None = None,
    device: torch.device | str = "cpu",
    decoding_precision: Precision = "fp32",
) -> Generator:
    """A generator artifact; without `decoder`, with the only one beside it that decodes its tokenizer's codes.

    Sampling settings are those of the samples artifact beside it, else plain sampling, which the artifact contains.
    `decoding_precision` is that of `load_decoder`.
    """
    folder = Path(folder)
    network, config = load_transformer(folder, device)
    chosen = Path(decoder) if decoder else only_decoder(folder, config)
    loaded = load_decoder(chosen, device, decoding_precision)
    if (decoded := loaded.config["tokenizer"]) != config["tokenizer"]:
        raise UserError(f"{chosen}: decodes codes of {decoded}, {folder} draws codes of {config['tokenizer']}")
    check_drawn(folder, config, chosen)
    return Generator(network, config, loaded, sampling_of(folder, config))


def only_decoder(folder: Path, config: dict[str, Any]) -> Path:
    """The decoder beside the generator that decodes the same tokenizer's codes; `UserError` unless there is one.

    Decoders of an older codebook count only if all are of one.
    """
    beside, tokenizer = data_folder(folder) / "decoder", config["tokenizer"]
    every = sorted(path.parent for path in beside.glob(f"*/{artifact.CONFIG}"))
    named = [path for path in every if artifact.read_config(path, "decoder")["tokenizer"] == tokenizer]
    found = [path for path in named if codebook_of(path) == config["inputs"].get("codebook")] or named
    if len(found) != 1:
        raise UserError(
            f"{folder}: expected one decoder of {tokenizer}'s codes in {beside}, found "
            f"{', '.join(path.name for path in found) or 'none'}. Pass load_generator(…, decoder=PATH)"
            + (" or run `dvc repro decoder`." if not found else ".")
        )
    return found[0]


def sampling_of(folder: Path, config: dict[str, Any]) -> Sampling:
    """The settings of the samples artifact beside the generator, if drawn from this one; else those in its config."""
    samples, settings = data_folder(folder) / "samples" / config["tokenizer"] / config["name"], config["sampling"]
    if samples.is_dir():
        facts, member = artifact.read_config(samples, "samples"), f"{config['tokenizer']}-{config['name']}"
        if facts["inputs"].get("generator") == artifact.digest(folder):
            settings = facts["sampling"]
        else:
            why = f"{samples} were drawn from another generator than {folder}; its settings are not used"
            print(f"warning: {why}. Run `dvc repro samples@{member}`.", file=sys.stderr)
    try:
        return type(KINDS[config["kind"]].plain)(**settings)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise UserError(
            f"{folder}: of another version, with other sampling settings ({names}). Run `dvc repro`."
        ) from None


def data_folder(folder: Path) -> Path:
    """The folder of all artifacts: `data` for `folder` data/generator/<tokenizer>-<name>; links are not followed."""
    return Path(os.path.abspath(folder)).parent.parent
