"""Read tokenised data: one memory-mapped array a split.

tokens = load_tokens(Path("data/tokens/kmeans"), "train")
tokens.codes    uint16 [views, images, N], a memory map; view 0 is the image as it is
tokens.labels   int64 [images], -1 without a class
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact

if TYPE_CHECKING:
    import numpy as np

KIND = "tokens"


@dataclass(frozen=True)
class Tokens:
    codes: np.ndarray
    labels: np.ndarray
    num_codes: int
    num_classes: int


def token_facts(folder: Path) -> dict[str, Any]:
    """The config of a tokens artefact: num_codes, num_patches, classes, views, counts."""
    return artefact.read_config(folder, KIND)


def load_tokens(folder: Path, split: str) -> Tokens:
    """The codes and labels of `train` or `val`; an array whose hash differs from the config's is an error."""
    import numpy as np

    facts = token_facts(folder)
    codes = np.load(artefact.checked(folder, f"{split}.npy"), mmap_mode="r")
    labels = np.load(artefact.checked(folder, f"{split}.labels.npy"))
    return Tokens(codes, labels, facts["num_codes"], len(facts["classes"]))
