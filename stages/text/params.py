"""Sections of text encoders, `text.<name>`: the schema of each kind, and the registry of kinds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.core.params import Section, kind_of, load

PARAMS = Path("params.yaml")


class TextEncoder(Section):
    """What all kinds have."""

    kind: str
    max_length: int = Field(gt=0, le=1024)  # tokens per caption; the end of a longer one is cut off, and counted


class Vocabulary(TextEncoder):
    """A vocabulary trained on the train captions; the generator learns an embedding per entry."""

    kind: Literal["vocabulary"]
    model: Literal["word", "bpe"]  # word: whole words | bpe: frequent sequences of bytes, so that nothing is unknown
    size: int = Field(ge=3, le=65536)  # entries at most, with those for padding and for unknown words
    lowercase: bool

    @model_validator(mode="after")
    def holds_every_byte(self) -> Self:
        if self.model == "bpe" and self.size < 258:
            raise ValueError(
                f"size = {self.size}: expected at least 258 with model: bpe, one entry per byte among them"
            )
        return self


class Transformer(TextEncoder):
    """Frozen features of a Hugging Face text model in a local folder, such as T5 or CLIP."""

    kind: Literal["transformer"]
    folder: str  # with config.json, tokenizer and .safetensors
    precision: Literal["fp32", "fp16", "bf16"]  # of the stored features; they are computed in fp32
    shard_captions: int = Field(gt=0)  # captions per file, and in memory at once

    @field_validator("folder")
    @classmethod
    def model_is_there(cls, folder: str) -> str:
        path = Path(folder or "?")
        if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
            raise ValueError(f"{folder!r}: expected a local folder with config.json, a tokenizer and .safetensors")
        return folder


@dataclass(frozen=True)
class Kind:
    """One kind of text encoder: its schema, and its module.

    The module defines `fit`, `write_split`, `count`, `files_of` for the stage `text`, `reader` and `load` for others.
    """

    schema: type[TextEncoder]
    module: str


KINDS = {
    "vocabulary": Kind(Vocabulary, "stages.text.vocabulary"),
    "transformer": Kind(Transformer, "stages.text.transformer"),
}


def load_params(name: str, path: Path = PARAMS) -> TextEncoder:
    """The section `text.<name>`, checked against the schema of its kind; `UserError` for an unknown kind."""
    return load(f"text.{name}", KINDS[kind_of(f"text.{name}", KINDS, path)].schema, path)
