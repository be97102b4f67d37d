"""The tokenizer: images -> codes, code -> vector; one interface for all kinds.

tokenizer = load_tokenizer("data/codebook/kmeans")
codes_BN = tokenizer.encode(images_BHWC)
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.codebook.params import KINDS, Inputs
from stages.codebook.quantizers import VECTORS, Codebook, Fsq, load_codebook
from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.images import to_float
from stages.core.metrics import checked_codes, code_dtype
from stages.core.networks import save_tensors

ARTIFACT = "codebook"


class Tokenizer:
    """Images to codes and codes to vectors. All settings come from the artifact, none from params.yaml.

    `encoder` turns float [B, 3, H, W] in [-1, 1] into features float [B, N, D]; `codebook` assigns codes to them.
    """

    def __init__(self, encoder: nn.Module, codebook: Codebook | Fsq, config: dict[str, Any]):
        self.encoder, self.codebook, self.config = encoder.eval(), codebook, config
        self.num_codes, self.dim = codebook.vectors.shape
        self.grid: int = config["grid"]
        self.num_patches: int = config["num_patches"]

    @property
    def device(self) -> torch.device:
        """Where images are encoded."""
        return self.codebook.vectors.device

    @torch.inference_mode()
    def encode(self, images: np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """uint8 [B, H, W, 3] -> int64 [B, N], row-major."""
        starts = range(0, len(images), batch_size)
        codes = [self.encode_pixels(to_float(images[i : i + batch_size], self.device)) for i in starts]
        return torch.cat(codes).cpu().numpy() if codes else np.empty((0, self.num_patches), np.int64)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> int64 [B, N]."""
        return self.codebook.assign(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D]: what is quantized, before `codebook.in_code_space`."""
        return self.encoder(pixels).float()

    def vectors(self, codes: Any) -> Tensor:
        """Codes of any integer type [...] -> float32 [..., D]; `UserError` for others."""
        return self.codebook.vectors[torch.from_numpy(checked_codes(codes, self.num_codes)).to(self.device)]


def load_tokenizer(folder: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """The tokenizer of a codebook artifact; the folder holds all it needs and may have been moved."""
    folder = Path(folder)
    config = artifact.read_config(folder, ARTIFACT)
    if config["kind"] not in KINDS:
        raise UserError(f"{folder}: kind {config['kind']!r}: expected one of {', '.join(KINDS)}")
    encoder = import_kind(KINDS[config["kind"]].load).load(folder, config)
    return Tokenizer(encoder.to(device), load_codebook(folder, config).to(device), config)


@contextmanager
def new_codebook(
    inputs: Inputs, kind: str, vectors_KD: Tensor, sources: Sequence[str], *, normalize: bool, grid: int,
    codebooks: int = 1, **facts: Any,
) -> Generator[Path]:  # fmt: skip
    """The codebook artifact `inputs.out` with its vectors; the block adds the files that `load` of the kind reads.

    `sources` are the inputs whose digests enter the config; `facts` enter it unchanged, for `load`.
    """
    num_codes, dim = vectors_KD.shape
    config = {
        "kind": kind, "name": inputs.name, "num_codes": num_codes, "dim": dim, "dtype": code_dtype(num_codes),
        "normalize": normalize, "codebooks": codebooks, "grid": grid, "num_patches": codebooks * grid**2, **facts,
        "inputs": {name: artifact.digest(getattr(inputs, name)) for name in sources},
    }  # fmt: skip
    with artifact.new_artifact(inputs.out, ARTIFACT, config) as folder:
        save_tensors(folder / VECTORS, {"vectors": vectors_KD})
        yield folder
