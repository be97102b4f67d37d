"""Params of the data stage: which images, how large, how they are split and stored."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.params import Section
from stages.data.dvc_folder import NO_FOLDER, refuse_unreadable

VAL_START = 50_000_000  # number of the first val scene; keys have eight digits


class Scenes(Section):
    """Settings of the renderer in stages/data/scenes/."""

    count: int = Field(ge=20, le=VAL_START)  # images, train and val together
    max_objects: int = Field(ge=1, le=8)
    patterned: float = Field(ge=0, le=1)  # share of objects filled with a pattern instead of one color
    nuisance: float = Field(ge=0, le=1)  # strength of background, clutter, light and noise


class Params(Section):
    """The section `data`; stages/data/writer.py has one function per source."""

    source: Literal["digits", "scenes", "folder"]
    folder: str
    scenes: Scenes
    img_px: int = Field(ge=8, le=4096)
    val_fraction: float = Field(gt=0, lt=1)
    shard_images: int = Field(gt=0)
    format: Literal["png", "jpg"]
    seed: int = Field(ge=0, lt=2**32)

    @model_validator(mode="after")
    def folder_fits_source(self) -> Self:
        if self.source != "folder" and self.folder != NO_FOLDER:
            raise ValueError(f"folder = {self.folder!r}: source: {self.source} reads no folder, expected {NO_FOLDER}")
        if self.source == "folder" and not Path(self.folder or "?").is_dir():
            raise ValueError(f"folder = {self.folder!r}: with source: folder, expected a folder of images")
        if self.source == "folder":
            refuse_unreadable(Path(self.folder))
        return self
