"""Sections `classifier`, `caption_checker`, `reference`, `reconstruction` and `generation` of params.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.core.params import Section, load
from stages.core.progress import LARGE_BASE_BYTES
from stages.core.schemas import Affine, Optim


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


class ReferenceParams(Section):
    """Real images to compare with."""

    max_images: int = Field(ge=0)  # of train; 0: all
    prc_neighbors: int = Field(gt=0)
    pixel_px: int = Field(gt=0)
    inception_weights: str
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("inception_weights")
    @classmethod
    def weights_are_there(cls, path: str) -> str:
        if path and (Path(path).suffix != ".safetensors" or not Path(path).is_file()):
            raise ValueError(f"{path!r}: expected '' or an existing .safetensors file (pickles are never read)")
        return path


class ReconstructionParams(Section):
    """Metrics of reconstructed val images."""

    decoding_precision: Literal["fp32", "bf16"]
    bootstrap_draws: int = Field(ge=2)
    seed: int = Field(ge=0, lt=2**32)


class GenerationParams(Section):
    """Metrics of generated samples."""

    decoding_precision: Literal["fp32", "bf16"]
    kid_subset_size: int = Field(ge=2)
    neighbors_shown: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)
