"""Rendered scenes: one to `max_objects` objects of ten shapes on a background; class, caption, boxes, masks are exact.

The class is the shape of the main object, by far the largest. An image depends on the seed and its own number alone,
so any shard, batch or count gives the same image. The numbers of val start at VAL_START: an image that may have
trained an encoder as part of one data set is never a val image of another.
"""

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.core.params import impossible
from stages.data.params import VAL_START, Params, Scenes
from stages.data.scenes.background import coordinates, render_background, take_photo, texture
from stages.data.scenes.counter_rng import ImageRng
from stages.data.scenes.objects import CLASSES, FILLS, Objects, captions, draw_objects, main_shapes
from stages.data.scenes.shapes import signed_distance
from stages.data.source import Candidate, Prepared, Refused, Source

BATCH_PIXELS = 2**16  # rendered at once, so that they fit into the processor's cache
BYTES_PER_PIXEL = 400  # of memory, while rendering
MIN_VISIBLE = 0.5  # share of itself that an object must show; an object that shows less is left out of the scene
MAX_HIDDEN = 0.15  # share of the main object that each object in front of it may hide


class Batch(NamedTuple):
    """Rendered scenes. `owner` is the number of the object that a pixel shows, -1 for the background."""

    images: np.ndarray  # uint8 [B, H, W, 3]
    owner: np.ndarray  # int64 [B, H, W]
    objects: Objects


def open_scenes(params: Params) -> Source:
    """`count` scenes, round(val_fraction * count) of them in val."""
    count, img_px = params.scenes.count, params.img_px
    num_val = round(params.val_fraction * count)
    if not len(CLASSES) <= num_val <= count - len(CLASSES):
        allowed = f"{num_val} of {count} scenes in val; both splits need {len(CLASSES)} or more"
        raise impossible("data.val_fraction", params.val_fraction, allowed)
    numbers = {"train": np.arange(count - num_val), "val": VAL_START + np.arange(num_val)}
    return Source(
        classes=CLASSES,
        splits={split: candidates(params.seed, of_split) for split, of_split in numbers.items()},
        open=lambda chosen: prepare(chosen, params.scenes, img_px, params.seed),
        batch_images=max(1, BATCH_PIXELS // img_px**2),
        decode_bytes=max(BATCH_PIXELS, img_px**2) * BYTES_PER_PIXEL,
    )


def candidates(seed: int, numbers: np.ndarray) -> list[Candidate]:
    """The scenes of these numbers, with their classes."""
    labels = main_shapes(ImageRng(seed, numbers)).tolist()
    return [Candidate(f"{n:08d}", f"scene-{n}", label) for n, label in zip(numbers.tolist(), labels, strict=True)]


def prepare(chosen: Sequence[Candidate], params: Scenes, img_px: int, seed: int) -> list[Prepared | Refused]:
    """The chosen scenes, with the shard members that images of a folder get from their sidecars."""
    numbers = [int(candidate.key) for candidate in chosen]
    batch = render(seed, numbers, img_px=img_px, **params.model_dump(exclude={"count"}))
    found = zip(batch.images, captions(batch.objects), boxes(batch), batch.owner, strict=True)
    return [
        Prepared(
            Image.fromarray(image),
            {"txt": words.encode(), "boxes.json": json.dumps(corners).encode(), "mask.png": png_of(owner)},
        )
        for image, words, corners, owner in found
    ]


def png_of(owner: np.ndarray) -> bytes:
    """int64 [H, W] -> a PNG: 255 where the main object is visible, 254 for the second, …, 0 for the background."""
    file = io.BytesIO()
    Image.fromarray(np.where(owner < 0, 0, 255 - owner).astype("uint8")).save(file, "png")
    return file.getvalue()


def boxes(batch: Batch) -> list[list[list[float]]]:
    """[[x0, y0, x1, y1], ...] per image, main object first: the edges, in pixels, of its visible part."""
    num_objects = batch.objects.present.shape[1]
    visible = batch.owner[:, None] == np.arange(num_objects)[:, None, None]
    columns, rows = visible.any(2), visible.any(3)  # [B, K, W] and [B, K, H]
    size = columns.shape[-1]
    edges = [columns.argmax(2), rows.argmax(2), size - columns[..., ::-1].argmax(2), size - rows[..., ::-1].argmax(2)]
    corners = np.stack(edges, -1).astype(float)
    return [found[present].tolist() for found, present in zip(corners, batch.objects.present, strict=True)]


def render(
    seed: int, numbers: Sequence[int], *, img_px: int, max_objects: int, patterned: float, nuisance: float
) -> Batch:
    """The numbered scenes, all at once. A pixel belongs to the nearest object that contains its center."""
    rng = ImageRng(seed, np.asarray(numbers))
    objects = draw_objects(rng, max_objects, patterned)
    x, y, distance = distances(objects, img_px)
    objects = objects._replace(present=visible_enough(objects, distance <= 0))
    plane = render_background(rng, objects.rgb[:, 0], img_px, nuisance)
    grain = texture(rng, "grain", 1, img_px)[:, 0]
    rows, order = np.arange(len(plane)), objects.depth.argsort(1)
    owner = np.full((len(plane), img_px, img_px), -1)
    for k in order.T:
        present = objects.present[rows, k][:, None, None]
        cover = np.clip(np.float32(0.5) - distance[rows, k] * img_px, 0, 1) * present
        plane += cover[:, None] * (fill_colors(objects, rows, k, x[rows, k], y[rows, k], grain) - plane)
        owner = np.where((distance[rows, k] <= 0) & present, k[:, None, None], owner)
    return Batch(take_photo(rng, plane, nuisance), owner, objects)


def distances(objects: Objects, img_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [B, K, H, W] each: x and y of pixel centers in object coordinates, signed distances in image sides."""
    x, y = coordinates(img_px)
    right, below = x - objects.center[..., :1, None], y - objects.center[..., 1:, None]
    cos, sin = (f(objects.angle)[..., None, None] / objects.radius[..., None, None] for f in (np.cos, np.sin))
    own_x, own_y = right * cos + below * sin, below * cos - right * sin
    flat = signed_distance(objects.shape.ravel(), own_x.reshape(-1, img_px, img_px), own_y.reshape(-1, img_px, img_px))
    return own_x, own_y, flat.reshape(own_x.shape) * objects.radius[..., None, None]


def visible_enough(objects: Objects, inside: np.ndarray) -> np.ndarray:
    """bool [B, K]: the objects that are kept. None of them hides more than MAX_HIDDEN of the main one, and the others
    show at least MIN_VISIBLE of themselves. `inside` is bool [B, K, H, W]."""
    nearer = objects.depth[:, :, None] < objects.depth[:, None]  # [B, K, L]: L lies before K
    present, area = objects.present.copy(), inside.sum((2, 3))
    shared = np.stack([(inside & inside[:, k : k + 1]).sum((2, 3)) for k in range(inside.shape[1])], 2)
    hides_main = nearer[:, 0] & (shared[:, 0] > MAX_HIDDEN * area[:, :1])
    present[:, 1:] &= ~hides_main[:, 1:]
    hidden = (shared * (nearer & present[:, None])).sum(2)
    present[:, 1:] &= (hidden < (1 - MIN_VISIBLE) * area)[:, 1:]
    return present


def fill_colors(
    objects: Objects, rows: np.ndarray, k: np.ndarray, x: np.ndarray, y: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """float32 [B, 3, H, W]: the fill of object k[b] of each image, everywhere, at the object's coordinates x, y."""
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
