"""Sections `classifier`, `reference`, `reconstruction`, `generation`, and `caption_checker` of the studies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from stages.core.params import Section, WeightsFile, load
from stages.core.progress import LARGE_BASE_BYTES
from stages.core.schemas import Affine, Optim

NO_STATISTICS = "data/code/no_folder"  # a path that exists, as DVC needs it


@dataclass(frozen=True)
class Inputs:
    """The artifacts that reconstructions and samples are scored with."""

    images: Path
    encoder: Path
    classifier: Path
    reference: Path
    decoder: Path


class ClassifierParams(Section):
    """A convolutional classifier of real images."""

    img_px: int = Field(ge=8)  # larger images are averaged down to it
    widths: list[int] = Field(min_length=1)  # channels at img_px, then after each halving
    augment: Affine
    optim: Optim

    def peak_bytes(self) -> int:
        """Memory of training it: per value of its convolutions, one on pixels and three after each halving, 8 bytes."""
        halved = enumerate(self.widths[1:], 1)
        values = self.img_px**2 * self.widths[0] + sum(
            3 * (self.img_px >> level) ** 2 * width for level, width in halved
        )
        return LARGE_BASE_BYTES + 8 * self.optim.batch_size * values

    @field_validator("widths")
    @classmethod
    def widths_are_positive(cls, widths: list[int]) -> list[int]:
        if any(width < 1 for width in widths):
            raise ValueError(f"{widths}: expected positive numbers of channels")
        return widths


class CaptionCheckerParams(Section):
    """A network that reads from images what captions say: of rendered scenes shape, color and position."""

    kind: Literal["scenes"]
    img_px: int = Field(ge=8)  # larger images are averaged down to it
    widths: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)  # channels at img_px, then after each halving
    optim: Optim


def load_checker_params(name: str, path: Path) -> CaptionCheckerParams:
    """The section `caption_checker.<name>`."""
    return load(f"caption_checker.{name}", CaptionCheckerParams, path)


class Pretrained(NamedTuple):
    """A feature extractor that others trained: its features, its logits (0: none), the same architecture in timm."""

    dim: int
    logits: int
    timm: str
    px: int  # to which it resizes
    features: str


TF1 = "TF1 bilinear resize to"
PREFIX = "semtok-"  # of the names in protocols: some of these are torch-fidelity's own
PRETRAINED = {  # names of `reference.extractors`
    "inception": Pretrained(2048, 1008, "inception_v3", 299, f"Inception-v3 2048 and logits_unbiased, {TF1} 299 px"),
    "efficientnet_lite0": Pretrained(1280, 1000, "tf_efficientnet_lite0", 224, f"pooled and logits, {TF1} 224 px"),
    "dinov2-vit-s-14": Pretrained(384, 0, "vit_small_patch14_dinov2", 224, f"class token, {TF1} 224 px"),
    "dinov2-vit-b-14": Pretrained(768, 0, "vit_base_patch14_dinov2", 224, f"class token, {TF1} 224 px"),
    "dinov2-vit-l-14": Pretrained(1024, 0, "vit_large_patch14_dinov2", 224, f"class token, {TF1} 224 px"),
    "clip-vit-b-32": Pretrained(512, 0, "vit_base_patch32_clip_224", 224, f"image embedding, {TF1} 224 px"),
    "clip-vit-b-16": Pretrained(512, 0, "vit_base_patch16_clip_224", 224, f"image embedding, {TF1} 224 px"),
    "clip-vit-l-14": Pretrained(768, 0, "vit_large_patch14_clip_224", 224, f"image embedding, {TF1} 224 px"),
}


class ReferenceParams(Section):
    """Real images to compare with."""

    max_images: int = Field(ge=0)  # of train; 0: all
    prc_neighbors: int = Field(gt=0)
    density_neighbors: int = Field(gt=0)
    pixel_px: int = Field(gt=0)
    extractors: dict[str, WeightsFile]  # name in PRETRAINED -> .safetensors file with its weights
    compare_with: Literal["train", "val", "statistics"]  # generated samples
    statistics: str  # .npz with mu and sigma, or a folder of images
    statistics_by: str  # the extractor that a .npz is of
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("extractors")
    @classmethod
    def weights_are_there(cls, extractors: dict[str, str]) -> dict[str, str]:
        for name, path in extractors.items():
            if name not in PRETRAINED:
                raise ValueError(f"{name}: no such extractor; there is {', '.join(PRETRAINED)}")
            if Path(path).suffix != ".safetensors" or not Path(path).is_file():
                raise ValueError(f"{name} = {path!r}: expected an existing .safetensors file (pickles are never read)")
        return extractors

    @property
    def from_npz(self) -> bool:
        """Whether samples are compared with a mean and a covariance alone."""
        return self.compare_with == "statistics" and Path(self.statistics).is_file()

    def unread(self) -> list[str]:
        """What is named and not read, one note per key."""
        if self.statistics == NO_STATISTICS or self.compare_with == "statistics":
            return []
        return [f"reference.statistics = {self.statistics}: not read with reference.compare_with: {self.compare_with}"]

    @model_validator(mode="after")
    def statistics_are_there(self) -> Self:
        path, compared = Path(self.statistics or "?"), self.compare_with == "statistics"
        if self.statistics == NO_STATISTICS and not compared:
            return self
        if self.statistics == NO_STATISTICS or not (path.is_dir() or (path.suffix == ".npz" and path.is_file())):
            or_none = "" if compared else f", or {NO_STATISTICS}"
            wanted = f"with compare_with: {self.compare_with}, expected a .npz file or a folder of images{or_none}"
            raise ValueError(f"statistics = {self.statistics!r}: {wanted}")
        if self.from_npz and self.statistics_by not in (known := ["embedded", "classifier", *self.extractors]):
            listed = ", ".join(known)
            raise ValueError(f"statistics_by = {self.statistics_by!r}: no extractor in use; expected one of {listed}")
        return self


class ReconstructionParams(Section):
    """Metrics of reconstructed val images."""

    decoding_precision: Literal["fp32", "bf16"]
    bootstrap_draws: int = Field(ge=2)
    seed: int = Field(ge=0, lt=2**32)


class GenerationParams(Section):
    """Metrics of generated samples."""

    decoding_precision: Literal["fp32", "bf16"]
    kid_subset_size: int = Field(ge=2)
    bootstrap_draws: int = Field(ge=0)
    fid_counts: int = Field(ge=0)
    neighbors_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("bootstrap_draws", "fid_counts")
    @classmethod
    def none_or_several(cls, count: int) -> int:
        if count == 1:
            raise ValueError("1: expected 0 or at least 2")
        return count
