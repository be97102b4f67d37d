"""Read a palette: the tokenizer that a decoder paints with, if it has one."""

from __future__ import annotations

from pathlib import Path

from stages.core import artefact

KIND, TOKENIZER = "palette", "tokenizer"


def paint_of(palette: Path) -> Path | None:
    """The codebook artefact inside a palette, with its own decoder in `decoder/`; None where the palette is empty."""
    config = artefact.read_config(palette, KIND)
    return palette / TOKENIZER if config["tokenizer"] else None
