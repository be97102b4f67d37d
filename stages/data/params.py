"""Params of the data stage: which images, how large, how they are split and stored."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.core.params import Section
from stages.data.dvc_folder import NO_FOLDER, refuse_unreadable

SCHEMES = ("http://", "https://", "gs://", "hf://", "ais://", "sftp://", "ftps://", "scp://")  # not pipe:, a command
URL = re.compile(f"(?:{'|'.join(SCHEMES)})\\S+$")
FIELD = r"^([A-Za-z0-9_]+|json\..+)?$"  # a field, or a key of the field json
READ_FILES = {"folder": "images", "webdataset": "shards"}  # source that reads a folder -> what is in it
VAL_START = 50_000_000  # number of the first val scene; keys have eight digits


class Scenes(Section):
    """Settings of the renderer in stages/data/scenes/."""

    count: int = Field(ge=20, le=VAL_START)  # images, train and val together
    max_objects: int = Field(ge=1, le=8)
    patterned: float = Field(ge=0, le=1)  # share of objects filled with a pattern instead of one color
    nuisance: float = Field(ge=0, le=1)  # strength of background, clutter, light and noise


class WebDataset(Section):
    """Where the shards of source: webdataset are, and what their fields mean."""

    shards: list[str]
    val_shards: list[str]
    class_field: str = Field(pattern=FIELD)
    caption_field: str = Field(pattern=FIELD)

    @field_validator("shards", "val_shards")
    @classmethod
    def are_files_or_urls(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            if ":" in pattern and not URL.match(pattern):
                raise ValueError(
                    f"{pattern!r} is no file name and no URL that can be read: expected {' '.join(SCHEMES)}"
                )
        return patterns


class Params(Section):
    """The section `data`; stages/data/writer.py has one function per source."""

    source: Literal["digits", "scenes", "folder", "webdataset"]
    folder: str
    val_folder: str
    captions: str
    webdataset: WebDataset
    scenes: Scenes
    crop: Literal["center", "pad", "resize"]
    background: str = Field(pattern="^#[0-9a-fA-F]{6}$")
    img_px: int = Field(ge=8, le=4096)
    val_fraction: float = Field(gt=0, lt=1)
    shard_images: int = Field(gt=0)
    format: Literal["png", "jpg"]
    png_level: int = Field(ge=0, le=9)
    seed: int = Field(ge=0, lt=2**32)

    @model_validator(mode="after")
    def folder_fits_source(self) -> Self:
        for key in ("folder", "val_folder"):
            self.check_folder(key, getattr(self, key))
        first, second = Path(self.folder).resolve(), Path(self.val_folder).resolve()
        nested = first.is_relative_to(second) or second.is_relative_to(first)
        if self.source in READ_FILES and self.has_val_folder and nested:
            raise ValueError(f"val_folder = {self.val_folder!r}: lies in folder or around it, expected other images")
        return self

    def check_folder(self, key: str, path: str) -> None:
        """`ValueError` for a folder that is not there. DVC reads every named one, the source or not."""
        elsewhere = self.source == "webdataset" and all(map(URL.match, self.webdataset.shards or [""]))
        needed = self.source in READ_FILES and key == "folder" and not elsewhere
        if path == NO_FOLDER and not needed:
            return
        if not Path(path or "?").is_dir():
            what = READ_FILES.get(self.source, f"images, or {NO_FOLDER}")
            raise ValueError(f"{key} = {path!r}: with source: {self.source}, expected a folder of {what}")
        refuse_unreadable(key, Path(path))

    @model_validator(mode="after")
    def captions_are_there(self) -> Self:
        path = Path(self.captions or "?")
        if self.has_captions and not path.is_file() and not any(path.glob("captions*.json")):
            wanted = "expected COCO's captions JSON, or a folder with captions*.json"
            raise ValueError(f"captions = {self.captions!r}: {wanted}")
        return self

    def unread(self) -> list[str]:
        """What is named and not read from this source, one note per key."""
        read = {"folder": ("folder", "webdataset"), "val_folder": ("folder", "webdataset"), "captions": ("folder",)}
        named = [key for key in read if getattr(self, key) != NO_FOLDER and self.source not in read[key]]
        return [f"data.{key} = {getattr(self, key)}: not read with data.source: {self.source}" for key in named]

    @property
    def has_captions(self) -> bool:
        """Whether captions stand in a JSON file of COCO's form."""
        return self.captions != NO_FOLDER

    @property
    def has_val_folder(self) -> bool:
        """Whether the val images have a folder of their own."""
        return self.val_folder != NO_FOLDER
