"""The params of every kind of tokenizer, the registry of kinds, and the paths of one tokenizer."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.core.params import Section, kind_of, load
from stages.core.progress import BASE_BYTES, LARGE_BASE_BYTES
from stages.core.schemas import BLOCK, TRAINED, Affine, HingeLossConfig, Optim, encoder_bytes

PARAMS = Path("params.yaml")
COMPARED = 512  # vectors whose distances to all codes a CPU holds at once
MOST_LEVELS = 1000  # with more, the bounds of quantizers.Fsq reach beyond the outermost level


class Kmeans(Section):
    """Patch features of a frozen encoder, clustered by k-means (DiGIT)."""

    kind: Literal["kmeans"]
    encoder: Literal["pipeline", "random"]
    blocks: list[int]
    layers: Literal["concat", "separate"]
    pca_dim: int = Field(ge=0)
    whiten: float = Field(ge=0, le=1)
    num_codes: int = Field(gt=0, le=2**32)
    method: Literal["sample", "lloyd", "minibatch"]
    engine: Literal["faiss", "flash", "superkmeans"]
    max_vectors: int = Field(ge=0)
    chunk_vectors: int = Field(gt=0)
    batch_vectors: int = Field(gt=0)
    start_iterations: int = Field(ge=0)
    iterations: int = Field(gt=0)
    init: Literal["random", "kmeans++", "afk-mc2", "kmeans||"]
    redo: int = Field(gt=0)
    normalize: bool
    seed: int = Field(ge=0, lt=2**31)

    def peak_bytes(self, vectors: int, dim: int) -> int:
        """Memory of one codebook at a time; `vectors` are those that are clustered."""
        held = vectors * 2 if self.method == "sample" else self.chunk_vectors * 4
        return BASE_BYTES + (held + self.num_codes * 4) * dim * 4

    @model_validator(mode="after")
    def each_setting_is_obeyed(self) -> Self:
        in_memory = {"max_vectors": (self.max_vectors, 0), "redo": (self.redo, 1), "engine": (self.engine, "faiss")}
        for key, (value, only) in in_memory.items():
            if self.method != "sample" and value != only:
                raise ValueError(f"method: {self.method} passes over all vectors: expected {key}: {only}, got {value}")
        if self.method == "sample" and self.init == "kmeans||":
            raise ValueError("init: kmeans|| is of methods lloyd and minibatch; faiss has random, kmeans++ and afk-mc2")
        if self.method == "minibatch" and self.batch_vectors > self.chunk_vectors:
            at_once = f"{self.chunk_vectors} of chunk_vectors"
            raise ValueError(f"batch_vectors = {self.batch_vectors}: expected at most the {at_once}")
        if self.engine != "faiss" and (self.normalize or self.redo > 1):
            lacks = f"engine: {self.engine} has no spherical k-means and no redo"
            raise ValueError(f"{lacks}: expected normalize: false, redo: 1")
        if self.engine == "superkmeans" and self.init != "random":
            raise ValueError(f"engine: superkmeans starts from random vectors: expected init: random, got {self.init}")
        return self


class Cluster(Section):
    """Patch features of a frozen encoder, clustered online by cosine (Cluster of the VQ-KD paper)."""

    kind: Literal["cluster"]
    num_codes: int = Field(gt=1, le=2**32)
    revive_dead_codes: bool
    optim: Optim

    def peak_bytes(self, num_patches: int, dim: int) -> int:
        """Memory: features of two batches in float16 and float32, and of some the distances to all codes."""
        features = self.optim.batch_size * num_patches
        distances = min(features, COMPARED) * self.num_codes * 8
        return LARGE_BASE_BYTES + features * dim * 40 + distances + TRAINED * self.num_codes * dim

    @field_validator("optim")
    @classmethod
    def distances_are_exact(cls, optim: Optim) -> Optim:
        if optim.precision != "fp32":
            raise ValueError(f"precision = {optim.precision!r}: expected fp32; bf16 cannot distinguish close codes")
        return optim


class EncoderSize(Section):
    """Size of the vision transformer that vqkd trains; its patches are those of the frozen teacher."""

    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)

    @model_validator(mode="after")
    def heads_divide_it(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


class Vqkd(Section):
    """An encoder trained so that its codes predict the features of the frozen one (VQ-KD)."""

    kind: Literal["vqkd"]
    num_codes: int = Field(gt=1, le=2**32)
    dim: int = Field(gt=1)
    code_decay: float = Field(ge=0, lt=1)
    commitment: float = Field(ge=0)
    revive_dead_codes: bool
    encoder: EncoderSize
    decoder_depth: int = Field(gt=0)
    augment: Affine
    optim: Optim

    def peak_bytes(self, num_patches: int, teacher: dict[str, int]) -> int:
        """Memory: the trained blocks, distances to all codes, and one block of the teacher, whose config this is."""
        patches, dim = self.optim.batch_size * num_patches, self.encoder.dim
        blocks = self.encoder.depth + self.decoder_depth
        distances = min(patches, COMPARED) * self.num_codes * 8
        own = TRAINED * 12 * dim**2 * (blocks + 1) + patches * dim * blocks * BLOCK + distances
        return LARGE_BASE_BYTES + own + encoder_bytes(teacher, self.optim.batch_size) // teacher["depth"]


class AutoencoderParams(HingeLossConfig):
    """Sizes and training of a convolutional autoencoder; each kind adds its quantizer."""

    networks = 2
    input_noise: float = Field(ge=0)  # sigma of noise on the encoder's input while training; pixels from -1 to 1


class Vqgan(AutoencoderParams):
    """An autoencoder with a vector-quantized bottleneck (VQGAN)."""

    kind: Literal["vqgan"]
    num_codes: int = Field(gt=1, le=2**32)
    dim: int = Field(gt=0)
    commitment: float = Field(ge=0)
    revive_dead_codes: bool


class Fsq(AutoencoderParams):
    """An autoencoder with finite scalar quantization (FSQ)."""

    kind: Literal["fsq"]
    levels: list[int] = Field(min_length=1)

    @field_validator("levels")
    @classmethod
    def each_has_a_choice(cls, levels: list[int]) -> list[int]:
        if min(levels) < 2 or max(levels) > MOST_LEVELS or math.prod(levels) > 2**24:
            raise ValueError(f"{levels}: expected 2 to {MOST_LEVELS} levels each, and at most 2^24 codes")
        return levels


TokenizerParams = Kmeans | Cluster | Vqkd | Vqgan | Fsq


@dataclass(frozen=True)
class Kind:
    """One kind of tokenizer. `fit` is a module with `check` and `fit`, `load` a module with `load`, imported by name.

    `reads_features`: the features artifact is an input. `pixel`: the codebook artifact holds a decoder to pixels.
    """

    schema: type[TokenizerParams]
    fit: str
    load: str
    reads_features: bool = False
    pixel: bool = False


KINDS = {
    "kmeans": Kind(Kmeans, "stages.codebook.kmeans", "stages.codebook.encoder_features", reads_features=True),
    "cluster": Kind(Cluster, "stages.codebook.cluster", "stages.codebook.encoder_features", reads_features=True),
    "vqkd": Kind(Vqkd, "stages.codebook.vqkd", "stages.codebook.vqkd_encoder", reads_features=True),
    "vqgan": Kind(Vqgan, "stages.codebook.vqgan", "stages.codebook.autoencoder", pixel=True),
    "fsq": Kind(Fsq, "stages.codebook.fsq", "stages.codebook.autoencoder", pixel=True),
}


def load_kind(name: str, path: Path = PARAMS) -> Kind:
    """The kind of tokenizer `name`; `UserError` for an unknown one."""
    return KINDS[kind_of(f"codebook.{name}", KINDS, path)]


def load_params(name: str, path: Path = PARAMS) -> TokenizerParams:
    """The section `codebook.<name>`, checked against the schema of its kind."""
    return load(f"codebook.{name}", load_kind(name, path).schema, path)


@dataclass(frozen=True)
class Inputs:
    """The artifacts that tokenizer `name` is made from, and where it is written.

    `features` are those of `encoder` for `images`; kinds that do not read them ignore the path.
    """

    name: str
    images: Path
    encoder: Path
    features: Path
    out: Path  # codebook artifact to write
    report: Path  # folder for metrics.json and curves

    @property
    def section(self) -> str:
        """The tokenizer's section in params.yaml."""
        return f"codebook.{self.name}"
