"""How many images the source has."""

from dataclasses import dataclass

from stages.data.decode import DECODE_BYTES
from stages.data.params import Params as Data
from stages.data.writer import SOURCES


@dataclass(frozen=True)
class Images:
    train: int
    val: int
    classes: int
    decode_bytes: int = DECODE_BYTES  # memory for decoding one


def images_of(params: Data) -> Images:
    """The images of the source, usable or not."""
    source = SOURCES[params.source](params)
    return Images(len(source.splits["train"]), len(source.splits["val"]), len(source.classes), source.decode_bytes)
