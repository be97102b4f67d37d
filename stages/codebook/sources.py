"""What a tokenizer may be made from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """Three artefacts: `features` are those of `encoder` for `images`."""

    images: Path
    encoder: Path
    features: Path
