"""What stands beside a generator in the folder of all artifacts: a decoder of its codes, and its sampling settings.

An exported generator (stages/export.py) holds them, and its tokenizer, in a folder of its own: `beside`.
"""

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.core import UserError, artifact
from stages.decoder.decoder import codebook_of, samples_stage
from stages.generator.alternating_params import kind_named
from stages.generator.params import Sampling

BESIDE = "beside"  # in an exported generator: what the pipeline keeps beside it


def only_decoder(folder: Path, config: dict[str, Any]) -> Path:
    """The decoder beside the generator that decodes the same tokenizer's codes; `UserError` unless there is one.

    Decoders of an older codebook count only if all are of one.
    """
    if (folder / BESIDE / "decoder").is_dir():
        return folder / BESIDE / "decoder"
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
    samples = held(folder, "samples", Path("samples", config["tokenizer"], config["name"]))
    settings = config["sampling"]
    if samples.is_dir():
        facts, member = artifact.read_config(samples, "samples"), f"{config['tokenizer']}-{config['name']}"
        if facts["inputs"].get("generator") == artifact.digest(folder):
            settings = facts["sampling"]
        else:
            why = f"{samples} were drawn from another generator than {folder}; its settings are not used"
            print(f"warning: {why}. Run `dvc repro {samples_stage(config)}@{member}`.", file=sys.stderr)
    try:
        return type(kind_named(config["kind"]).plain)(**settings)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise UserError(
            f"{folder}: of another version, with other sampling settings ({names}). Run `dvc repro`."
        ) from None


def held(folder: Path, name: str, beside: Path) -> Path:
    """The folder `name` of an exported generator, else the path `beside` in the folder of all artifacts."""
    own = folder / BESIDE
    return own / name if own.is_dir() else data_folder(folder) / beside


def data_folder(folder: Path) -> Path:
    """The folder of all artifacts: `data` for `folder` data/generator/<tokenizer>-<name>; links are not followed."""
    return Path(os.path.abspath(folder)).parent.parent
