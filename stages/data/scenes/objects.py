"""The objects of a scene: their shapes, colors, sizes, rotations, positions and fills, and the captions.

Object 0 is the main one: its shape is the class, and every other object spans at most 0.55 of it. Lengths are
fractions of the image's side, x to the right, y down, angles in radians.
"""

from typing import NamedTuple

import numpy as np

from stages.data.scenes.counter_rng import ImageRng
from stages.data.scenes.shapes import SHAPES

CLASSES = [*SHAPES]
COLORS = {
    "red": (0.85, 0.12, 0.10), "orange": (0.96, 0.50, 0.08), "yellow": (0.96, 0.87, 0.12),
    "green": (0.13, 0.60, 0.18), "cyan": (0.12, 0.76, 0.82), "blue": (0.13, 0.25, 0.85),
    "purple": (0.50, 0.14, 0.66), "pink": (0.96, 0.52, 0.72), "white": (0.94, 0.94, 0.94), "black": (0.07, 0.07, 0.07),
}  # fmt: skip
FILLS = ("solid", "striped", "dotted", "checked", "grainy")
SIZES = ((0.26, "small"), (0.31, "medium"), (1.0, "large"))  # radii below these have the name
RADII = (0.21, 0.36)  # of main objects
SHARES = (0.35, 0.55)  # of the main object's radius, for the others
JITTER = 0.06  # of a named color, each channel, either way
TRIES = 6  # positions drawn per object, of which draw_places picks one


class Objects(NamedTuple):
    """Arrays [B, K] or [B, K, ...] over K = max_objects objects; `present` says which of them exist."""

    present: np.ndarray  # bool; object 0 always
    shape: np.ndarray  # int64, a number in CLASSES
    color: np.ndarray  # int64, a number in COLORS
    fill: np.ndarray  # int64, a number in FILLS
    radius: np.ndarray  # float32
    angle: np.ndarray  # float32
    center: np.ndarray  # float32 [B, K, 2], x and y
    rgb: np.ndarray  # float32 [B, K, 3] in 0 ... 1
    second_rgb: np.ndarray  # float32 [B, K, 3]: the fill's other color
    period: np.ndarray  # float32: of the fill, in radii
    depth: np.ndarray  # float32: larger is nearer


def draw_objects(rng: ImageRng, max_objects: int, patterned: float) -> Objects:
    """The objects of the images of `rng`: classes in equal shares, everything else independent of the class.

    `patterned` is the share of objects that have a pattern; all patterns are equally frequent.
    """
    radius = rng.uniform("radius", max_objects, low=SHARES[0], high=SHARES[1])
    radius[:, 0] = rng.uniform("main radius", low=RADII[0], high=RADII[1])
    radius[:, 1:] *= radius[:, :1]
    shape, color = rng.below("shape", len(CLASSES), max_objects), rng.below("colour", len(COLORS), max_objects)
    shape[:, 0] = main_shapes(rng)
    pattern = 1 + rng.below("pattern", len(FILLS) - 1, max_objects)
    fill = np.where(rng.uniform("patterned", max_objects) < patterned, pattern, FILLS.index("solid"))
    jitter = rng.uniform("jitter", max_objects, 3, low=-JITTER, high=JITTER)
    rgb = np.clip(np.array([*COLORS.values()], np.float32)[color] + jitter, 0, 1)
    return Objects(
        present=np.arange(max_objects) <= rng.below("objects", max_objects)[:, None],
        shape=shape,
        color=color,
        fill=fill,
        radius=radius,
        angle=rng.uniform("angle", max_objects, high=2 * np.pi),
        center=draw_places(rng, radius),
        rgb=rgb,
        second_rgb=shaded(rgb, rng.uniform("shade", max_objects)),
        period=rng.uniform("period", max_objects, low=0.6, high=0.85),
        depth=rng.uniform("depth", max_objects),
    )


def main_shapes(rng: ImageRng) -> np.ndarray:
    """int64 [B]: a seeded permutation of the classes for every ten successive image numbers."""
    runs, places = np.divmod(rng.numbers, np.uint64(len(CLASSES)))
    orders = ImageRng(rng.seed, runs).uniform("class", len(CLASSES)).argsort(1)
    return orders[np.arange(len(runs)), places.astype(np.int64)]


def draw_places(rng: ImageRng, radius: np.ndarray) -> np.ndarray:
    """float32 [B, K, 2]: centers inside the image. Of TRIES draws per object, the first that overlaps each
    earlier object by at most 0.3 of its own radius; if there is none, the one that overlaps least."""
    tries = rng.uniform("place", radius.shape[1], TRIES, 2)
    reach = radius[:, :, None, None]
    tries = reach + tries * (1 - 2 * reach)
    center = tries[:, :, 0].copy()
    for k in range(1, radius.shape[1]):
        gaps = np.sqrt(((tries[:, k, :, None] - center[:, None, :k]) ** 2).sum(-1)) - radius[:, None, :k]
        free = np.minimum(gaps.min(2) - radius[:, k : k + 1], -0.3 * radius[:, k : k + 1])
        center[:, k] = tries[np.arange(len(tries)), k, free.argmax(1)]
    return center


def shaded(rgb: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A darker or a lighter tone of each color [..., 3]; dark colors become lighter, light ones darker."""
    light = rgb.mean(-1)
    lighter = np.where(light < 0.25, True, np.where(light > 0.7, False, draw < 0.5))[..., None]
    return np.where(lighter, rgb + 0.5 * (1 - rgb), rgb * 0.5).astype(np.float32)


def captions(objects: Objects) -> list[str]:
    """A sentence per image: the main object with its place, then the others with theirs, such as "with a tiny …"."""
    lines = []
    for image in range(len(objects.present)):
        phrases = [phrase(objects, image, k) for k in objects.present[image].nonzero()[0].tolist()]
        lines.append(" and ".join([", with ".join(phrases[:2]), *phrases[2:]]))
    return lines


def phrase(objects: Objects, image: int, k: int) -> str:
    """Words for an object: "a large striped red star at the top left"; only the main object has a named size."""
    size = next(name for limit, name in SIZES if objects.radius[image, 0] < limit) if k == 0 else "tiny"
    color, fill = [*COLORS][objects.color[image, k]], FILLS[objects.fill[image, k]]
    column, row = (objects.center[image, k] * 3).astype(int).clip(0, 2).tolist()
    place = " ".join(filter(None, [("top", "", "bottom")[row], ("left", "", "right")[column]])) or "centre"
    return f"a {size} {fill} {color} {CLASSES[objects.shape[image, k]]} at the {place}"
