"""Rendered scenes: one to `max_objects` objects of ten shapes on a background; class, caption, boxes, masks are exact.

The class is the shape of the main object, by far the largest. An image depends on (seed, its number) alone, so that
any shard, batch or count gives the same one. The numbers of val start at VAL_START: what was ever a train image of
some data set, and so may have trained an encoder, is never a val image of another.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from stages.core.params import Section, impossible
from stages.data.backdrop import backdrop, coordinates, photograph, texture
from stages.data.candidates import Candidate, Picture, Refused, Source
from stages.data.dice import Dice
from stages.data.objects import CLASSES, FILLS, Objects, captions, draw_objects, main_shapes
from stages.data.shapes import signed_distance

if TYPE_CHECKING:
    import numpy as np

VAL_START = 50_000_000  # keys have eight digits
BATCH_PIXELS = 2**16  # rendered at once: what the processor's cache holds
BYTES_A_PIXEL = 400  # of memory, while rendering
SEEN = 0.5  # an object that shows less of itself is left out of the scene
HIDDEN = 0.15  # what may be hidden of the main object by each one before it


class Scenes(Section):
    """Settings of the renderer."""

    count: int = Field(ge=20, le=VAL_START)  # images, train and val together
    max_objects: int = Field(ge=1, le=8)
    patterned: float = Field(ge=0, le=1)  # share of objects filled with a pattern instead of one colour
    nuisance: float = Field(ge=0, le=1)


class Batch(NamedTuple):
    """Rendered scenes and what is known of them. `owner` is the number of the object seen in a pixel, -1 for none."""

    images: np.ndarray  # uint8 [B, H, W, 3]
    owner: np.ndarray  # int64 [B, H, W]
    objects: Objects


def open_scenes(params: Scenes, img_px: int, val_fraction: float, seed: int) -> Source:
    """`count` scenes, round(val_fraction * count) of them in val."""
    import numpy as np

    num_val = round(val_fraction * params.count)
    if not len(CLASSES) <= num_val <= params.count - len(CLASSES):
        allowed = f"{num_val} of {params.count} scenes in val; both splits need {len(CLASSES)} or more"
        raise impossible("data.val_fraction", val_fraction, allowed)
    numbers = {"train": np.arange(params.count - num_val), "val": VAL_START + np.arange(num_val)}
    return Source(
        classes=CLASSES,
        splits={split: candidates(seed, of_split) for split, of_split in numbers.items()},
        open=lambda asked: pictures(asked, params, img_px, seed),
        batch_images=max(1, BATCH_PIXELS // img_px**2),
        decode_bytes=max(BATCH_PIXELS, img_px**2) * BYTES_A_PIXEL,
    )


def candidates(seed: int, numbers: np.ndarray) -> list[Candidate]:
    """The scenes of these numbers, with their classes."""
    labels = main_shapes(Dice(seed, numbers)).tolist()
    return [Candidate(f"{n:08d}", f"scene-{n}", label) for n, label in zip(numbers.tolist(), labels, strict=True)]


def pictures(asked: Sequence[Candidate], params: Scenes, img_px: int, seed: int) -> list[Picture | Refused]:
    """The scenes asked for, with the members that a folder's sidecars would become."""
    from PIL import Image

    numbers = [int(candidate.key) for candidate in asked]
    batch = render(seed, numbers, img_px=img_px, **params.model_dump(exclude={"count"}))
    found = zip(batch.images, captions(batch.objects), boxes(batch), batch.owner, strict=True)
    return [
        Picture(
            Image.fromarray(image),
            {"txt": words.encode(), "boxes.json": json.dumps(corners).encode(), "mask.png": png_of(owner)},
        )
        for image, words, corners, owner in found
    ]


def png_of(owner: np.ndarray) -> bytes:
    """int64 [H, W] -> a PNG: 255 where the main object is seen, 254 the second, …, 0 where none is."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.where(owner < 0, 0, 255 - owner).astype("uint8")).save(file, "png")
    return file.getvalue()


def boxes(batch: Batch) -> list[list[list[float]]]:
    """[[x0, y0, x1, y1], ...] an image, main object first: the edges, in pixels, of what is seen of each object."""
    import numpy as np

    num_objects = batch.objects.there.shape[1]
    seen = batch.owner[:, None] == np.arange(num_objects)[:, None, None]
    columns, rows = seen.any(2), seen.any(3)  # [B, K, W] and [B, K, H]
    size = columns.shape[-1]
    edges = [columns.argmax(2), rows.argmax(2), size - columns[..., ::-1].argmax(2), size - rows[..., ::-1].argmax(2)]
    corners = np.stack(edges, -1).astype(float)
    return [found[there].tolist() for found, there in zip(corners, batch.objects.there, strict=True)]


def render(
    seed: int, numbers: Sequence[int], *, img_px: int, max_objects: int, patterned: float, nuisance: float
) -> Batch:
    """The numbered scenes, all at once. A pixel belongs to the nearest object that contains its centre."""
    import numpy as np

    dice = Dice(seed, np.asarray(numbers))
    objects = draw_objects(dice, max_objects, patterned)
    x, y, distance = distances(objects, img_px)
    objects = objects._replace(there=worth_seeing(objects, distance <= 0))
    plane = backdrop(dice, objects.rgb[:, 0], img_px, nuisance)
    grain = texture(dice, "grain", 1, img_px)[:, 0]
    rows, order = np.arange(len(plane)), objects.depth.argsort(1)
    owner = np.full((len(plane), img_px, img_px), -1)
    for k in order.T:
        there = objects.there[rows, k][:, None, None]
        cover = np.clip(np.float32(0.5) - distance[rows, k] * img_px, 0, 1) * there
        plane += cover[:, None] * (paint(objects, rows, k, x[rows, k], y[rows, k], grain) - plane)
        owner = np.where((distance[rows, k] <= 0) & there, k[:, None, None], owner)
    return Batch(photograph(dice, plane, nuisance), owner, objects)


def distances(objects: Objects, img_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [B, K, H, W] each: pixel centres in the objects' own coordinates, and signed distances in sides."""
    import numpy as np

    x, y = coordinates(img_px)
    right, below = x - objects.centre[..., :1, None], y - objects.centre[..., 1:, None]
    cos, sin = (f(objects.angle)[..., None, None] / objects.radius[..., None, None] for f in (np.cos, np.sin))
    own_x, own_y = right * cos + below * sin, below * cos - right * sin
    flat = signed_distance(objects.shape.ravel(), own_x.reshape(-1, img_px, img_px), own_y.reshape(-1, img_px, img_px))
    return own_x, own_y, flat.reshape(own_x.shape) * objects.radius[..., None, None]


def worth_seeing(objects: Objects, inside: np.ndarray) -> np.ndarray:
    """bool [B, K]: which objects stay, so that the main one is nearly whole and every other one at least half seen."""
    import numpy as np

    nearer = objects.depth[:, :, None] < objects.depth[:, None]  # [B, K, L]: L lies before K
    there, area = objects.there.copy(), inside.sum((2, 3))
    shared = np.stack([(inside & inside[:, k : k + 1]).sum((2, 3)) for k in range(inside.shape[1])], 2)
    hides_main = nearer[:, 0] & (shared[:, 0] > HIDDEN * area[:, :1])
    there[:, 1:] &= ~hides_main[:, 1:]
    hidden = (shared * (nearer & there[:, None])).sum(2)
    there[:, 1:] &= (hidden < (1 - SEEN) * area)[:, 1:]
    return there


def paint(
    objects: Objects, rows: np.ndarray, k: np.ndarray, x: np.ndarray, y: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """float32 [B, 3, H, W]: the fill of object k[b] of each image, everywhere, at the object's coordinates x, y."""
    import numpy as np

    fill = objects.fill[rows, k][:, None, None]
    turns = 2 * np.pi / objects.period[rows, k][:, None, None]
    wave_x, wave_y = np.sin(x * turns), np.sin(y * turns)
    patterns = {"striped": wave_x, "checked": wave_x * wave_y * 2, "dotted": wave_x + wave_y - 0.8, "grainy": grain}
    share = np.zeros_like(x)
    for name, pattern in patterns.items():
        soft = np.clip(np.float32(0.5) + np.float32(1.5) * pattern, 0, 1)
        share = np.where(fill == FILLS.index(name), soft, share)
    first, second = objects.rgb[rows, k], objects.second_rgb[rows, k]
    return first[..., None, None] + share[:, None] * (second - first)[..., None, None]
