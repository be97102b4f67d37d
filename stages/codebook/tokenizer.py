"""The tokenizer: images -> codes, code -> vector; one interface for all kinds.

tokenizer = load_tokenizer("data/codebook/kmeans")
codes_BN = tokenizer.encode(images)     # arrays, PIL images or paths: see `encode`
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
from stages.data.given import Count, Device, Range, checked
from stages.data.reader import image_facts
from stages.data.squares import Square, batches, recorded, squares

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
        self.square = Square(config["img_px"], config["crop"], config["background"])

    @property
    def device(self) -> torch.device:
        """Where images are encoded."""
        return self.codebook.vectors.device

    @checked
    @torch.inference_mode()
    def encode(self, images: Any, batch_size: Count = 256, value_range: Range | None = None) -> np.ndarray:
        """One image or several -> int64 [B, N], row-major; B is 1 for one image.

        `images`: an array [H, W, 3] or [B, H, W, 3] of NumPy or torch, a PIL image, the path of an image file, or a
        list of single ones. Arrays are uint8; floats need `value_range`, (0, 1) or any other (low, high), and are
        rounded to 8 bits. Images of another size than `square.img_px` are cropped and resized as `prepare` does it.
        """
        parts = [self.encode_squares(part) for part in batches(images, self.square, batch_size, value_range)]
        return np.concatenate(parts) if parts else np.empty((0, self.num_patches), np.int64)

    @checked
    def prepare(self, images: Any, value_range: Range | None = None) -> np.ndarray:
        """What `encode` makes of images first, uint8 [B, img_px, img_px, 3]: squares like the training images.

        `square.crop` is its setting `data.crop`: center takes the central square, pad keeps the whole image on
        `square.background`, resize stretches it. Resizing is bicubic and antialiased.
        """
        return squares(images, self.square, value_range)

    @torch.inference_mode()
    def encode_squares(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3], neither cropped nor resized -> int64 [B, N]."""
        return self.encode_pixels(to_float(images, self.device)).cpu().numpy()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> int64 [B, N]."""
        return self.codebook.assign(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, N, D]: what is quantized, before `codebook.in_code_space`."""
        return self.encoder(pixels).float()

    def vectors(self, codes: Any) -> Tensor:
        """Codes of any integer type [...] -> float32 [..., D]; `UserError` for others."""
        return self.codebook.vectors[torch.from_numpy(checked_codes(codes, self.num_codes)).to(self.device)]


@checked
def load_tokenizer(folder: str | Path, device: Device = "cpu") -> Tokenizer:
    """The tokenizer of a codebook artifact; the folder holds all it needs and may have been moved."""
    folder = Path(folder)
    config = artifact.read_config(folder, ARTIFACT)
    if "crop" not in config:
        raise UserError(f"{folder}: of another version, without the size and crop of images. Run `dvc repro codebook`.")
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
        "normalize": normalize, "codebooks": codebooks, "grid": grid, "num_patches": codebooks * grid**2,
        **recorded(image_facts(inputs.images)), **facts,
        "inputs": {name: artifact.digest(getattr(inputs, name)) for name in sources},
    }  # fmt: skip
    with artifact.new_artifact(inputs.out, ARTIFACT, config) as folder:
        save_tensors(folder / VECTORS, {"vectors": vectors_KD})
        yield folder
