"""What a caption of a rendered scene says of the main object: shape, color and position."""

from collections.abc import Sequence

from stages.data.scenes.objects import CLASSES, COLORS

PLACES = [" ".join(filter(None, (row, column))) or "centre" for row in ("top", "", "bottom")
          for column in ("left", "", "right")]  # fmt: skip
ATTRIBUTES: dict[str, Sequence[str]] = {"shape": CLASSES, "color": [*COLORS], "position": PLACES}  # name -> its values
UNKNOWN = -1


def attributes_of(caption: str) -> list[int]:
    """The number of each attribute's value, UNKNOWN for one that the caption does not name, or names more than once."""
    main = caption.lower().partition(", with ")[0]
    what, _, place = main.partition(" at the ")
    words = what.split()
    named = {"shape": words, "color": words, "position": [place.strip()]}
    return [number_of(values, named[name]) for name, values in ATTRIBUTES.items()]


def number_of(values: Sequence[str], words: list[str]) -> int:
    """The number of the one value among the words, else UNKNOWN."""
    found = [number for number, value in enumerate(values) if value in words]
    return found[0] if len(found) == 1 else UNKNOWN
