"""What a decoder may be made from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """Four artefacts: `codebook` is the tokenizer whose codes it decodes, `palette` what it paints with, if so."""

    images: Path
    encoder: Path
    codebook: Path
    palette: Path
