"""The tokenizer: images -> codes, code -> vector; one interface for all kinds.

tokenizer = load_tokenizer("data/codebook/kmeans")
codes_BN = tokenizer.encode(images_BHWC)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.codebook.quantise import Codebook, Fsq
from stages.core import artefact
from stages.core.codes import code_dtype
from stages.core.pixels import to_float

if TYPE_CHECKING:
    import numpy as np

KIND = "codebook"


class Tokenizer:
    """Images to codes and codes to vectors. All numbers come from the artefact, none from params.yaml.

    `rows_of` turns float [B, 3, H, W] in [-1, 1] into rows, `codebook` assigns codes to them and places them among
    its vectors.
    """

    def __init__(self, rows_of: nn.Module, codebook: Codebook | Fsq, config: dict[str, Any]):
        self.rows_of, self.codebook, self.config = rows_of.eval(), codebook, config
        self.num_codes, self.dim = codebook.vectors.shape
        self.grid: int = config["grid"]
        self.num_patches: int = config["num_patches"]

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """uint8 [B, H, W, 3] -> uint16 (uint32 past 65,536 codes) [B, N], row-major."""
        import numpy as np

        dtype, device = np.dtype(code_dtype(self.num_codes)), self.codebook.vectors.device
        if len(images) == 0:
            return np.empty((0, self.num_patches), dtype)
        codes = [
            self.encode_pixels(to_float(images[i : i + batch_size], device)) for i in range(0, len(images), batch_size)
        ]
        return torch.cat(codes).cpu().numpy().astype(dtype)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> int64 [B, N]."""
        return self.codebook.assign(self.rows(pixels))

    def rows(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D]: what is quantised, not yet `codebook.placed`."""
        return self.rows_of(pixels).float()

    def vectors(self, codes: np.ndarray | Tensor) -> Tensor:
        """codes [...] -> float32 [..., D]."""
        import numpy as np

        index = codes if isinstance(codes, Tensor) else torch.from_numpy(np.asarray(codes).astype(np.int64))
        return self.codebook.vectors[index.to(self.codebook.vectors.device).long()]


def load_tokenizer(folder: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """A codebook artefact, with the network that makes its rows."""
    config = artefact.read_config(Path(folder), KIND)
    return Tokenizer(load_rows(Path(folder), config, device), load_codebook(Path(folder), config).to(device), config)


def load_codebook(folder: Path, config: dict[str, Any]) -> Codebook | Fsq:
    """The rule from rows to codes."""

    if "levels" in config:
        return Fsq(config["levels"])
    vectors, groups = artefact.load_tensors(folder, "codes.safetensors")["vectors"], groups_of(config)
    return Codebook(vectors, config["normalise"], groups)


def groups_of(config: dict[str, Any]) -> int:
    """Codes a position of the grid."""
    return config["num_patches"] // config["grid"] ** 2


def load_rows(folder: Path, config: dict[str, Any], device: torch.device | str) -> nn.Module:
    """The network from pixels to rows: `rows` in the config says which."""
    match config["rows"]:
        case "frozen":
            from stages.codebook.frozen import load_frozen

            return load_frozen(folder, config, device)
        case "conv":
            from stages.codebook.autoencoder import load_conv

            return load_conv(folder, config, device)
        case "student":
            from stages.codebook.student import load_student

            return load_student(folder, config, device)
    raise ValueError(f"{folder}: rows of kind {config['rows']!r}")
