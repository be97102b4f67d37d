"""Read the reference artefact: real training images as an evaluation compares with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact
from stages.core.errors import UserError
from stages.reference.balls import PRC_BATCH

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.core.spaces import Space
    from stages.reference.sight import Sight

FILE = "reference.safetensors"
BASE_BYTES = 10**9  # Python, its libraries, the networks and a batch


@dataclass(frozen=True)
class Reference:
    """R images: their Sight, without logits, and {space: [R]} the radii of the balls of precision.

    `index` int64 [R] are their numbers in the train split; `config` says how they were chosen and seen.
    """

    sight: Sight
    radii: dict[str, Tensor]
    index: np.ndarray
    config: dict[str, Any]


def load_reference(folder: Path, spaces: dict[str, Space]) -> Reference:
    """The artefact; other networks than those of `spaces` are an error."""
    from stages.reference.sight import Sight

    config = artefact.read_config(folder, "reference")
    if config["spaces"] != {name: space.facts for name, space in spaces.items()}:
        raise UserError(f"{folder}: made with other networks than these. Run `dvc repro reference`.")
    tensors = artefact.load_tensors(folder, FILE)
    features, radii = ({name: tensors[f"{what}.{name}"] for name in spaces} for what in ("features", "radii"))
    return Reference(Sight(features, {}, tensors["thumbs"]), radii, tensors["index"].numpy(), config)


def peak_bytes(count: int, dim: int, pixel_px: int) -> int:
    """Memory for `count` images: float32 features and thumbnails, distances of 1,000 images to all, and a copy."""
    return BASE_BYTES + count * (4 * (dim + 3 * pixel_px**2) + 8 * PRC_BATCH)
