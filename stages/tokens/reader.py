"""Read tokenized data: one memory-mapped array per split.

tokens = load_tokens(Path("data/tokens/kmeans"), "train")
tokens.codes    uint16 (uint32 above 65,536 codes) [views, images, N], a memory map; view 0 is the image as it is
tokens.labels   int64 [images], -1 without a class
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact


@dataclass(frozen=True)
class Tokens:
    codes: np.ndarray
    labels: np.ndarray
    num_codes: int
    num_classes: int


def token_facts(folder: Path) -> dict[str, Any]:
    """The config.json of a tokens artifact: num_codes, num_patches, classes, views, counts."""
    return artifact.read_config(folder, "tokens")


def load_tokens(folder: Path, split: str) -> Tokens:
    """The codes and labels of `train` or `val`; an array whose hash differs from the config's is an error."""
    facts = token_facts(folder)
    codes = np.load(artifact.checked(folder, f"{split}.npy"), mmap_mode="r")
    labels = np.load(artifact.checked(folder, f"{split}.labels.npy"))
    return Tokens(codes, labels, facts["num_codes"], len(facts["classes"]))
