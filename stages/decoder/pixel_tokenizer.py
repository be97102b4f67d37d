"""The pixel_tokenizer artifact of a decoder: a copy of the codebook whose decoder it uses, or nothing.

A copy per decoder, so that a new tokenizer retrains no decoder.
"""

from pathlib import Path
from typing import Any

from stages.core import artifact
from stages.core.params import impossible

TYPE, COPY = "pixel_tokenizer", "tokenizer"


def codebook_in(folder: Path) -> Path | None:
    """The codebook artifact inside a pixel_tokenizer artifact, with its decoder in `decoder/`; None if it is empty."""
    return folder / COPY if artifact.read_config(folder, TYPE)["tokenizer"] else None


def write_pixel_tokenizer(name: str, codebook: Path | None, out: Path) -> None:
    """Write the artifact `out` of decoder `name`: a copy of the artifact `codebook`, or an empty one."""
    config: dict[str, Any] = {"name": name, "tokenizer": ""}
    if codebook:
        chosen = artifact.read_config(codebook, "codebook")["name"]
        config |= {"tokenizer": chosen, "inputs": {"codebook": artifact.digest(codebook)}}
    with artifact.new_artifact(out, TYPE, config) as folder:
        if codebook:
            artifact.copy(codebook, folder / COPY)
    print(f"pixel_tokenizer: {name} uses {config['tokenizer'] or 'none'}")


def check_pixel_tokenizer(name: str, tokenizer: str, tokenizers: list[str], codebooks: Path) -> Path:
    """The codebook artifact of the pixel tokenizer of decoder `name`; `UserError` if it has no decoder of its own."""
    key = f"pixel_tokenizer.{name}"
    if tokenizer not in tokenizers:
        raise impossible(key, tokenizer, f"expected one of `tokenizers`: {', '.join(tokenizers)}")
    kind = artifact.read_config(codebooks / tokenizer, "codebook")["kind"]
    if not (codebooks / tokenizer / "decoder" / artifact.CONFIG).is_file():
        raise impossible(key, tokenizer, f"expected a tokenizer with a decoder of its own; kind {kind} has none")
    return codebooks / tokenizer
