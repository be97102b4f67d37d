"""What stands in a scene: its objects' shapes, colours, sizes, turns, places and fills, and the words for them.

Object 0 is the main one: its shape is the class, and every other object spans at most 0.55 of it. Lengths are
fractions of the image's side, x to the right, y down, angles in radians.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stages.data.dice import Dice
from stages.data.shapes import SHAPES

if TYPE_CHECKING:
    import numpy as np

CLASSES = [*SHAPES]
COLOURS = {
    "red": (0.85, 0.12, 0.10), "orange": (0.96, 0.50, 0.08), "yellow": (0.96, 0.87, 0.12),
    "green": (0.13, 0.60, 0.18), "cyan": (0.12, 0.76, 0.82), "blue": (0.13, 0.25, 0.85),
    "purple": (0.50, 0.14, 0.66), "pink": (0.96, 0.52, 0.72), "white": (0.94, 0.94, 0.94), "black": (0.07, 0.07, 0.07),
}  # fmt: skip
FILLS = ("solid", "striped", "dotted", "checked", "grainy")
SIZES = ((0.26, "small"), (0.31, "medium"), (1.0, "large"))  # radii below these have the name
RADII = (0.21, 0.36)  # of main objects
SHARES = (0.35, 0.55)  # of the main object's radius, for the others
JITTER = 0.06  # of a named colour, each channel, either way
TRIES = 6  # places tried for an object


class Objects(NamedTuple):
    """Arrays [B, K] or [B, K, ...] over K = max_objects objects; `there` says which of them exist."""

    there: np.ndarray  # bool; object 0 always
    shape: np.ndarray  # int64, a number in CLASSES
    colour: np.ndarray  # int64, a number in COLOURS
    fill: np.ndarray  # int64, a number in FILLS
    radius: np.ndarray  # float32
    angle: np.ndarray  # float32
    centre: np.ndarray  # float32 [B, K, 2], x and y
    rgb: np.ndarray  # float32 [B, K, 3] in 0 ... 1
    second_rgb: np.ndarray  # float32 [B, K, 3]: the fill's other colour
    period: np.ndarray  # float32: of the fill, in radii
    depth: np.ndarray  # float32: larger is nearer


def draw_objects(dice: Dice, max_objects: int, patterned: float) -> Objects:
    """The objects of the dice's images: classes in equal shares, all else independent of them.

    `patterned` is the share of them that has a pattern, each pattern as often.
    """
    import numpy as np

    radius = dice.uniform("radius", max_objects, low=SHARES[0], high=SHARES[1])
    radius[:, 0] = dice.uniform("main radius", low=RADII[0], high=RADII[1])
    radius[:, 1:] *= radius[:, :1]
    shape, colour = dice.below("shape", len(CLASSES), max_objects), dice.below("colour", len(COLOURS), max_objects)
    shape[:, 0] = main_shapes(dice)
    pattern = 1 + dice.below("pattern", len(FILLS) - 1, max_objects)
    fill = np.where(dice.uniform("patterned", max_objects) < patterned, pattern, FILLS.index("solid"))
    jitter = dice.uniform("jitter", max_objects, 3, low=-JITTER, high=JITTER)
    rgb = np.clip(np.array([*COLOURS.values()], np.float32)[colour] + jitter, 0, 1)
    return Objects(
        there=np.arange(max_objects) <= dice.below("objects", max_objects)[:, None],
        shape=shape,
        colour=colour,
        fill=fill,
        radius=radius,
        angle=dice.uniform("angle", max_objects, high=2 * np.pi),
        centre=draw_places(dice, radius),
        rgb=rgb,
        second_rgb=shaded(rgb, dice.uniform("shade", max_objects)),
        period=dice.uniform("period", max_objects, low=0.6, high=0.85),
        depth=dice.uniform("depth", max_objects),
    )


def main_shapes(dice: Dice) -> np.ndarray:
    """int64 [B]: a seeded permutation of the classes for every run of so many image numbers."""
    import numpy as np

    runs, places = np.divmod(dice.numbers, np.uint64(len(CLASSES)))
    orders = Dice(dice.seed, runs).uniform("class", len(CLASSES)).argsort(1)
    return orders[np.arange(len(runs)), places.astype(np.int64)]


def draw_places(dice: Dice, radius: np.ndarray) -> np.ndarray:
    """float32 [B, K, 2]: centres inside the image, each the first of some tries that hardly touches those before."""
    import numpy as np

    tries = dice.uniform("place", radius.shape[1], TRIES, 2)
    reach = radius[:, :, None, None]
    tries = reach + tries * (1 - 2 * reach)
    centre = tries[:, :, 0].copy()
    for k in range(1, radius.shape[1]):
        gaps = np.sqrt(((tries[:, k, :, None] - centre[:, None, :k]) ** 2).sum(-1)) - radius[:, None, :k]
        free = np.minimum(gaps.min(2) - radius[:, k : k + 1], -0.3 * radius[:, k : k + 1])
        centre[:, k] = tries[np.arange(len(tries)), k, free.argmax(1)]
    return centre


def shaded(rgb: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A darker or a lighter tone of each colour [..., 3]; dark colours become lighter, light ones darker."""
    import numpy as np

    light = rgb.mean(-1)
    lighter = np.where(light < 0.25, True, np.where(light > 0.7, False, draw < 0.5))[..., None]
    return np.where(lighter, rgb + 0.5 * (1 - rgb), rgb * 0.5).astype(np.float32)


def captions(objects: Objects) -> list[str]:
    """A sentence an image: the main object with its place, then the others with theirs, such as "with a small …"."""
    lines = []
    for image in range(len(objects.there)):
        phrases = [phrase(objects, image, k) for k in objects.there[image].nonzero()[0].tolist()]
        lines.append(" and ".join([", with ".join(phrases[:2]), *phrases[2:]]))
    return lines


def phrase(objects: Objects, image: int, k: int) -> str:
    """Words for an object: "a large striped red star at the top left"; sizes are named for the main one alone."""
    size = next(name for limit, name in SIZES if objects.radius[image, 0] < limit) if k == 0 else "tiny"
    colour, fill = [*COLOURS][objects.colour[image, k]], FILLS[objects.fill[image, k]]
    column, row = (objects.centre[image, k] * 3).astype(int).clip(0, 2).tolist()
    place = " ".join(filter(None, [("top", "", "bottom")[row], ("left", "", "right")[column]])) or "centre"
    return f"a {size} {fill} {colour} {CLASSES[objects.shape[image, k]]} at the {place}"
