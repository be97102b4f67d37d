"""What a source of images offers: candidates in two splits, and a way to open each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image


class Refused(Exception):
    """This candidate is no good image; the message is the reason that the index and the console show."""


class Candidate(NamedTuple):
    """An image that may still be refused. `label` is a class number, -1 where the source has no classes."""

    key: str  # its number in the whole source, 8 digits
    name: str
    label: int


class Picture(NamedTuple):
    """A good image: square RGB, and the shard members made from its sidecars."""

    image: Image
    extras: dict[str, bytes]


@dataclass(frozen=True)
class Source:
    """`open` raises `Refused`; `facts` tell one state of the source from another, beyond the params."""

    classes: list[str]
    splits: dict[str, list[Candidate]]
    open: Callable[[Candidate], Picture]
    decode_bytes: int  # memory that opening one typical image takes
    refused: list[dict[str, str]] = field(default_factory=list)  # {name, reason} of what is no candidate
    facts: str = ""


def refusal(name: str, reason: str) -> dict[str, str]:
    """An entry of the index's list of refused files."""
    return {"name": name, "reason": reason}
