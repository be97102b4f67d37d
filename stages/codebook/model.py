"""The tokenizer: frozen encoder + codebook, images -> codes, code -> vector.

tokenizer = load_tokenizer("data/codebook/kmeans")
codes_BN = tokenizer.encode(images_BHWC)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import artefact
from stages.core.codes import code_dtype
from stages.core.errors import UserError
from stages.core.pixels import to_float
from stages.encoder.model import Encoder, load_encoder

if TYPE_CHECKING:
    import numpy as np

KIND = "codebook"


class Codebook(nn.Module):
    """Code vectors [K, D] and the rule that assigns a feature to one of them."""

    vectors: Tensor

    def __init__(self, vectors_KD: Tensor, normalise: bool):
        super().__init__()
        self.register_buffer("vectors", vectors_KD.float())
        self.normalise = normalise

    def assign(self, feat_D: Tensor) -> Tensor:
        """float [..., D] -> int64 [...]: argmin over k of ||f - c_k||²; on unit vectors if `normalise`."""
        rows = (F.normalize(feat_D.float(), dim=-1) if self.normalise else feat_D.float()).flatten(0, -2)
        # ||f||² is the same for every k and left out; a part at a time, because rows x K numbers may not fit.
        parts = rows.split(max(1, 2**26 // len(self.vectors)))
        size = self.vectors.square().sum(1)
        return torch.cat([torch.addmm(size, part, self.vectors.T, alpha=-2).argmin(1) for part in parts]).view(
            feat_D.shape[:-1]
        )


class Tokenizer:
    """Images to codes and codes to vectors. All numbers come from the artefact, none from params.yaml."""

    def __init__(self, encoder: Encoder, codebook: Codebook, config: dict[str, Any]):
        self.encoder, self.codebook, self.config = encoder, codebook, config
        self.num_codes, self.dim = codebook.vectors.shape
        self.grid: int = encoder.grid
        self.num_patches: int = encoder.grid**2
        self.block: int = config["block"]
        self.final_norm: bool = config["final_norm"]

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """uint8 [B, H, W, 3] -> uint16 (uint32 past 65,536 codes) [B, N], row-major."""
        import numpy as np

        device = self.codebook.vectors.device
        codes = [
            self.encode_pixels(to_float(images[i : i + batch_size], device)) for i in range(0, len(images), batch_size)
        ]
        return torch.cat(codes).cpu().numpy().astype(np.dtype(code_dtype(self.num_codes)))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> int64 [B, N]."""
        return self.codebook.assign(self.rows(pixels))

    def rows(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D]: what is quantised, in the space of the code vectors."""
        return self.encoder(pixels, blocks=[self.block], final_norm=self.final_norm)[0].float()

    def vectors(self, codes: np.ndarray | Tensor) -> Tensor:
        """codes [...] -> float32 [..., D]."""
        import numpy as np

        index = codes if isinstance(codes, Tensor) else torch.from_numpy(np.asarray(codes).astype(np.int64))
        return self.codebook.vectors[index.to(self.codebook.vectors.device).long()]


def load_codebook(folder: str | Path) -> tuple[Codebook, dict[str, Any]]:
    """The code vectors and config of a codebook artefact, without its encoder."""
    from safetensors.torch import load_file

    config = artefact.read_config(Path(folder), KIND)
    tensors = load_file(artefact.checked(Path(folder), "codes.safetensors"))
    return Codebook(tensors["vectors"], config["normalise"]), config


def load_tokenizer(folder: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """The codebook with the very encoder it was fitted on; another encoder in its place is an error."""
    codebook, config = load_codebook(folder)
    encoder_folder = Path(folder) / config["encoder"]
    if artefact.digest(encoder_folder) != config["inputs"]["encoder"]:
        raise UserError(f"{encoder_folder}: not the encoder that {folder} was fitted on. Run `dvc repro codebook`.")
    return Tokenizer(load_encoder(encoder_folder, device), codebook.to(device), config)
