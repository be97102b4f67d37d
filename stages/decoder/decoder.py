"""Decoders turn codes into images: the interface of all kinds, their loader, and noise with one seed per image.

decoder = load_decoder("data/decoder/kmeans-onestep")
images_BHWC = decoder.decode(codes_BN)
"""

import hashlib
from abc import ABC, abstractmethod
from copy import copy
from math import isqrt
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.hardware import compute
from stages.core.images import to_uint8
from stages.core.metrics import checked_codes
from stages.core.networks import to_grid
from stages.core.params import Precision
from stages.data.given import Count, Device, checked
from stages.decoder.params import KINDS, Inputs


class Decoder(ABC):
    """A trained decoder: its network on a device, and the config of its artifact.

    `stochastic`: images depend on the generator given to `decode`.
    `any_size`: the network is convolutional, so that `enlarged` works.
    `precision`: of products and convolutions; fp32 on a CPU without instructions for it.
    """

    stochastic = True
    any_size = False
    precision: Precision = "fp32"

    def __init__(self, network: nn.Module, config: dict[str, Any], device: torch.device | str):
        self.network, self.config, self.device = network.to(device).eval(), config, torch.device(device)

    @property
    def num_codes(self) -> int:
        """Number of different codes, K."""
        return self.config["num_codes"]

    @property
    def num_patches(self) -> int:
        """Codes per image, N = codebooks * grid²."""
        return self.config["codebooks"] * self.config["grid"] ** 2

    @property
    def num_parameters(self) -> int:
        """Parameters of all networks that decoding uses; code vectors are buffers and do not count."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def steps(self) -> int | None:
        """Decoding steps; None for kinds without this setting."""
        return None

    @checked
    def with_steps(self, steps: Count) -> Self:
        """The same decoder with another number of decoding steps."""
        if self.steps is None:
            raise UserError(f"steps = {steps}: a decoder of kind {self.config['kind']} takes no steps")
        return self._with(sampling={**self.config["sampling"], "steps": steps})

    @checked
    def enlarged(self, scale: Count) -> Self:
        """The same decoder for code grids and images `scale` times as wide and high as in training."""
        if not self.any_size:
            raise UserError(f"a decoder of kind {self.config['kind']} decodes images of its training size only")
        return self._with(grid=scale * self.config["grid"], img_px=scale * self.config["img_px"])

    @checked
    def in_precision(self, precision: Precision) -> Self:
        """The same decoder in another number format."""
        other = copy(self)
        other.precision = precision
        return other

    def _with(self, **changes: Any) -> Self:
        other = copy(self)
        other.config = {**self.config, **changes}
        return other

    @abstractmethod
    def decode_batch(self, codes_BN: Tensor, seeds_B: np.ndarray) -> Tensor:
        """int64 [B, N] on the device, uint64 [B] -> float [B, 3, H, W], about [-1, 1].

        All randomness of image i comes from seed i, through `normal` or `uniform`.
        """

    @checked
    @torch.inference_mode()
    def decode(self, codes: Any, generator: torch.Generator | None = None, batch_size: Count = 256) -> np.ndarray:
        """Codes of any integer type [B, N], arrays, tensors or lists, -> uint8 [B, H, W, 3]; [N] is one image.

        One seed is drawn from `generator` (0 without one). An image depends on that seed and on its codes. The batch
        that it is decoded in changes float rounding only: at most one gray level per value, except in RenderDecoder.
        """
        codes_BN = self.validated(codes)
        seeds = seeds_of(codes_BN, generator)
        starts = range(0, max(1, len(codes_BN)), batch_size)
        parts = [(codes_BN[i : i + batch_size].to(self.device), seeds[i : i + batch_size]) for i in starts]
        with compute(self.device, self.precision):
            return np.concatenate([to_uint8(self.decode_batch(*part)) for part in parts])

    def validated(self, codes: Any) -> Tensor:
        """int64 [B, N] on the CPU; `UserError` for codes of another type, range or shape."""
        found = torch.from_numpy(checked_codes(codes, self.num_codes))
        if found.shape not in ((0,), (self.num_patches,)) and found.shape[1:] != (self.num_patches,):
            wanted = f"[B, {self.num_patches}], the codes of an image one after the other"
            raise UserError(f"codes: shape {list(found.shape)}: expected {wanted}")
        return found.view(found.numel() // self.num_patches, self.num_patches)


@checked
def load_decoder(folder: str | Path, device: Device = "cpu", precision: Precision = "fp32") -> Decoder:
    """The decoder artifact in `folder`, with its EMA weights; reads no file outside `folder`.

    On a CPU with instructions for it bf16 takes less than half the time, and changes values by a gray level or two.
    """
    config = artifact.read_config(Path(folder), "decoder")
    if (kind := config.get("kind")) not in KINDS:
        raise UserError(f"{folder}: a decoder of kind {kind!r}; this version knows {', '.join(KINDS)}")
    return import_kind(KINDS[kind].load).load(Path(folder), config, device).in_precision(precision)


def base_config(inputs: Inputs, kind: str, **more_inputs: str) -> dict[str, Any]:
    """config.json of a decoder as far as all kinds agree: names, code shape, image size, digests of its inputs."""
    book = artifact.read_config(inputs.codebook, "codebook")
    digests = {"images": artifact.digest(inputs.images), "codebook": artifact.digest(inputs.codebook), **more_inputs}
    return {
        "kind": kind, "name": inputs.name, "tokenizer": book["name"],
        "grid": book["grid"], "codebooks": book["num_patches"] // book["grid"] ** 2, "num_codes": book["num_codes"],
        "img_px": artifact.read_config(inputs.images, "images")["img_px"], "inputs": digests,
    }  # fmt: skip


def check_codes_of(decoder: Path, codebook: Path) -> None:
    """`UserError` if a decoder artifact was trained on codes of another tokenizer than `codebook`."""
    if codebook_of(decoder) not in (None, artifact.digest(codebook)):
        raise UserError(f"{decoder}: was not trained on the codes of {codebook}. Run `dvc repro decoder`.")


def check_drawn(drawn: Path, config: dict[str, Any], decoder: Path) -> None:
    """`UserError` if a generator or samples artifact with this config has codes of another codebook than `decoder`."""
    if codebook_of(decoder) in (None, config["inputs"].get("codebook")):
        return
    tokenizer, own = config["tokenizer"], artifact.read_config(decoder, "decoder")
    remake = "" if own["name"] == "joint" else f"decoder@{own['tokenizer']}-{own['name']} "
    stages = f"{remake}{samples_stage(config)}@{tokenizer}-{config['name']}"
    raise UserError(f"{drawn}: draws codes of another {tokenizer} than {decoder} decodes. Run `dvc repro {stages}`.")


def samples_stage(config: dict[str, Any]) -> str:
    """The stage that draws the samples of a generator, from its config or that of samples of it."""
    return config.get("samples_stage", "samples")


def codebook_of(decoder: Path) -> str | None:
    """The digest of the codebook whose codes a decoder artifact decodes.

    A tokenizer's joint decoder lies in that codebook and records none. None if it was taken out.
    """
    found, around = artifact.read_config(decoder, "decoder")["inputs"].get("codebook"), decoder.absolute().parent
    joint = (around / artifact.CONFIG).is_file() and artifact.type_of(around) == "codebook"
    return found or (artifact.digest(around) if joint else None)


def standardized(vectors_KD: Tensor) -> Tensor:
    """Code vectors as input of a decoder, float32 [K, D]: mean 0, mean standard deviation over dimensions 1."""
    scaled = (vectors_KD - vectors_KD.mean(0)) / vectors_KD.std(0, correction=0).mean().clamp(min=1e-6)
    return scaled.float()


def latents(vectors_KD: Tensor, codes_BN: Tensor, codebooks: int) -> Tensor:
    """int64 [B, N] -> code vectors, float [B, codebooks * D, grid, grid]; N = codebooks * grid²."""
    return to_grid(vectors_KD[codes_BN], isqrt(codes_BN.shape[1] // codebooks))


def seeds_of(codes_BN: Tensor, generator: torch.Generator | None) -> np.ndarray:
    """uint64 [B]: hash of 63 bits drawn from `generator` (0 without one) and of the codes of each image.

    Thus the same codes under the same seed give the same image at any position of any batch.
    """
    device = generator.device if generator else "cpu"
    drawn = int(torch.randint(2**63 - 1, (), generator=generator, device=device)) if generator else 0
    rows = codes_BN.cpu().numpy().astype("<i8")
    hashes = [hashlib.sha256(drawn.to_bytes(8, "little") + row.tobytes()).digest() for row in rows]
    return np.array([int.from_bytes(digest[:8], "little") for digest in hashes], np.uint64)


def normal(seeds_B: np.ndarray, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Standard normal float32 [B, *shape]; item i depends on seed i alone."""
    return _stack([_rng(seed).standard_normal(shape, np.float32) for seed in seeds_B], shape, device)


def uniform(seeds_B: np.ndarray, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Uniform float32 in [0, 1) [B, *shape]; item i depends on seed i alone."""
    return _stack([_rng(seed).random(shape, np.float32) for seed in seeds_B], shape, device)


def _rng(seed: np.uint64) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int(seed)))


def _stack(items: list[np.ndarray], shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.stack(items) if items else np.empty((0, *shape), np.float32)).to(device)
