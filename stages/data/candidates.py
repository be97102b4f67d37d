"""What a source of images offers: candidates in two splits, and a way to open them, several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """`open` takes up to `batch_images` candidates; `facts` tell one state of it from another, beyond the params."""

    classes: list[str]
    splits: dict[str, list[Candidate]]
    open: Callable[[Sequence[Candidate]], list[Picture | Refused]]
    decode_bytes: int  # memory that opening typical images, as many as are opened at once, takes
    batch_images: int = 1
    refused: list[dict[str, str]] = field(default_factory=list)  # {name, reason} of what is no candidate
    facts: str = ""


def one_by_one(open_one: Callable[[Candidate], Picture]) -> Callable[[Sequence[Candidate]], list[Picture | Refused]]:
    """The `open` of a source that opens a candidate, or raises `Refused`."""

    def attempt(candidate: Candidate) -> Picture | Refused:
        try:
            return open_one(candidate)
        except Refused as refused:
            return refused

    return lambda candidates: [attempt(candidate) for candidate in candidates]


def refusal(name: str, reason: str) -> dict[str, str]:
    """An entry of the index's list of refused files."""
    return {"name": name, "reason": reason}
