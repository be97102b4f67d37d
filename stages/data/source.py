"""What a source of images offers: candidates in two splits, and a way to open several of them at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image


class Refused(Exception):
    """This candidate is not a usable image; config.json and the console show the message as the reason."""


class Candidate(NamedTuple):
    """A possible image, which may still be refused. `label` is a class number, -1 where there are no classes."""

    key: str  # its number in the whole source, 8 digits
    name: str
    label: int


class Prepared(NamedTuple):
    """A usable image: square RGB, and the shard members made from its sidecars."""

    image: Image.Image
    sidecars: dict[str, bytes]  # field of the shard -> bytes


@dataclass(frozen=True)
class Source:
    """A source as its candidates and the function that opens up to `batch_images` of them.

    `facts` identifies the state of the source where params do not, by a hash of a folder's file names, sizes and times.
    """

    classes: list[str]
    splits: dict[str, list[Candidate]]
    open: Callable[[Sequence[Candidate]], list[Prepared | Refused]]
    decode_bytes: int  # memory that one call of `open` takes at most
    batch_images: int = 1
    refused: list[dict[str, str]] = field(default_factory=list)  # {name, reason} of files that are no candidates
    facts: str = ""
    order: Callable[[str], int] | None = None  # of names; a class without train images gives train its lowest of val
    notes: list[str] = field(default_factory=list)  # what else a user should know; printed


def one_by_one(open_one: Callable[[Candidate], Prepared]) -> Callable[[Sequence[Candidate]], list[Prepared | Refused]]:
    """The `open` of a source whose `open_one` returns one image or raises `Refused`."""

    def open_or_refuse(candidate: Candidate) -> Prepared | Refused:
        try:
            return open_one(candidate)
        except Refused as refused:
            return refused

    return lambda candidates: [open_or_refuse(candidate) for candidate in candidates]


def refusal(name: str, reason: str) -> dict[str, str]:
    """An entry of the list of refused files in config.json."""
    return {"name": name, "reason": reason}
