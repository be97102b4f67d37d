"""Params of the encoder: the section `encoder`, and the section of each embedded encoder in pretrain.yaml."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from stages.core.params import Precision, Section, WeightsFile, impossible
from stages.core.schemas import Affine, Optim


class EncoderParams(Section):
    """Which network is fetched, and how it computes."""

    name: str = Field(min_length=1)
    weights: WeightsFile
    img_px: int = Field(ge=8)
    precision: Precision

    @model_validator(mode="after")
    def weights_are_there(self) -> Self:
        if self.weights:
            check_weights("weights", self.weights)
        return self


def check_weights(key: str, path: Any) -> None:
    """`ValueError` for anything but the path of a .safetensors file that is there."""
    if not isinstance(path, str) or Path(path).suffix != ".safetensors" or not Path(path).is_file():
        why = "expected an existing .safetensors file; `semtok import-weights` makes one of others"
        raise ValueError(f"{key} = {path!r}: {why}")


class Views(Section):
    """Random changes of a view at full strength; pixels run from -1 to 1."""

    affine: Affine
    mix_colors: float = Field(ge=0, le=1)  # 0: colors unchanged … 1: a random rotation of color space
    gray: float = Field(ge=0, le=1)  # share of views without color
    clouds: float = Field(ge=0, le=1)  # maximal standard deviation of added random colored texture
    contrast: float = Field(ge=0, lt=1)  # gain 1 ± contrast
    brightness: float = Field(ge=0, le=1)  # offset ± brightness
    noise: float = Field(ge=0, le=1)  # maximal sigma of Gaussian noise
    start_strength: float = Field(ge=0, le=1)  # curriculum: ranges grow from this fraction …
    ramp: float = Field(ge=0, le=1)  # … to 1 over this fraction of the steps


class PretrainParams(Section):
    """Network, objective, views and optimization of one embedded encoder."""

    source: Literal["digits", "scenes", "folder", "webdataset"]  # required source of the images artifact
    patch_px: int = Field(ge=2)
    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    stem_blocks: int = Field(ge=0)
    temperature: float = Field(gt=0)
    dense_weight: float = Field(ge=0)
    pixel_weight: float = Field(ge=0)
    class_weight: float = Field(ge=0)  # 0: self-supervised
    store: Literal["fp32", "fp16"]
    views: Views
    optim: Optim

    @model_validator(mode="after")
    def shapes_fit(self) -> Self:
        if self.patch_px & (self.patch_px - 1):
            raise ValueError(f"patch_px = {self.patch_px}: expected a power of two (the stem halves the image)")
        step = 8 * self.patch_px * (2 if self.stem_blocks else 1)  # the stem's narrowest map has 8 channels or more
        if self.dim % step:
            raise ValueError(f"dim = {self.dim}: expected a multiple of {step} (patch_px = {self.patch_px})")
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


def check_equal_maps(key: str, blocks: list[int], maps: list[tuple[int, int]]) -> None:
    """`UserError` if blocks to be joined have other grids or widths than each other; nothing is resampled."""
    if len({maps[block] for block in blocks}) > 1:
        found = ", ".join("{0} x {0} of {1}".format(*maps[block]) for block in blocks)
        raise impossible(key, blocks, f"expected blocks of one size; these have {found}")
