"""Where k-means takes its rows from: the features artefact, or images and a network.

Rows that are computed wait in scratch as float16, like those of the features artefact, so that every pass over them
reads a file and not the network; parts that a killed attempt left are kept.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import artefact, shards
from stages.core.artefact import read_config
from stages.core.choice import choose
from stages.core.errors import UserError
from stages.core.params import Machine, impossible
from stages.data.reader import ImageSplit
from stages.encoder.blocks import block_number

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.frozen import FrozenRows, RowMap
    from stages.codebook.kmeans import Params
    from stages.codebook.sources import Sources

SPLITS = ("train", "val")
PART_IMAGES = 128  # images a file of computed rows
Piece = Callable[[], "Iterator[np.ndarray]"]  # a file: arrays float16 [images, layers, patches, dim]


@dataclass(frozen=True)
class Layout:
    """Which rows there are: those of `blocks`, side by side or in groups, of `patches` positions an image."""

    blocks: list[int]
    groups: int
    patches: int
    dim: int  # of a row, before any projection
    final_norm: bool
    computed: bool
    images: dict[str, int]  # by split

    @property
    def train_rows(self) -> int:
        """Train rows of a group."""
        return self.images["train"] * self.patches

    @property
    def disk_bytes(self) -> int:
        """What the computed rows take in scratch."""
        return sum(self.images.values()) * self.patches * self.groups * self.dim * 2 if self.computed else 0


def layout(section: str, sources: Sources, params: Params) -> Layout:
    """From the artefacts' facts; `UserError` for a block that the encoder has not."""
    stored, depth = read_config(sources.features, "features"), read_config(sources.encoder, "encoder")["depth"]
    blocks = [block_number(f"{section}.blocks", block, depth) for block in params.blocks] or [stored["block"]]
    if len({*blocks}) < len(blocks):
        raise impossible(f"{section}.blocks", params.blocks, "expected different blocks")
    groups = len(blocks) if params.layers == "separate" else 1
    return Layout(
        blocks, groups, stored["num_patches"], stored["dim"] * len(blocks) // groups, stored["final_norm"],
        computed=params.encoder == "random" or blocks != [stored["block"]],
        images={split: stored["splits"][split]["images"] for split in SPLITS},
    )  # fmt: skip


class Rows:
    """The rows of both splits, read a piece at a time: float32, mapped by `row_map`, of unit length if `normalise`."""

    def __init__(self, shape: Layout, pieces: dict[str, list[Piece]], normalise: bool):
        self.layout, self.pieces, self.normalise = shape, pieces, normalise
        self.row_map: RowMap | None = None

    def arrays(self, split: str, group: int, order: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """float16 [M, D] rows of a group as they were made, in the order of the numbered files."""
        for number in range(len(self.pieces[split])) if order is None else order:
            for array in self.pieces[split][number]():  # [images, layers, patches, dim]
                yield array[:, group].reshape(-1, self.layout.dim)

    def chunks(self, split: str, group: int, size: int, order: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """float32 [size, d]; the last one may be shorter."""
        for chunk in regroup(self.arrays(split, group, order), size):
            yield self.ready(chunk, group)

    def sample(self, group: int, used: int, seed: int) -> np.ndarray:
        """float32 [used, d]: a seeded choice without repetition of a group's train rows, in order."""
        import numpy as np

        chosen, sample = choose(self.layout.train_rows, used, seed), np.empty((used, self.layout.dim), np.float32)
        filled = seen = 0
        for array in self.arrays("train", group):
            rows = chosen[filled : np.searchsorted(chosen, seen + len(array))] - seen
            sample[filled : filled + len(rows)] = array[rows]
            filled, seen = filled + len(rows), seen + len(array)
        return self.ready(sample, group)

    def ready(self, rows: np.ndarray, group: int) -> np.ndarray:
        """Rows as they are clustered. faiss's `spherical` gives centroids unit length, but not its input: we do."""
        import numpy as np
        import torch

        rows = rows.astype(np.float32, copy=False)
        if self.row_map:
            rows = self.row_map.of(group, torch.from_numpy(rows)).numpy()
        if self.normalise:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows


def regroup(arrays: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows of arrays [M, D] as arrays of `size` rows, the last one may be shorter; not to be written to."""
    import numpy as np

    held, count = [], 0
    for array in arrays:
        while count + len(array) >= size:
            cut = size - count
            yield np.concatenate([*held, array[:cut]]) if held else array[:cut]
            held, count, array = [], 0, array[cut:]
        if len(array):
            held.append(array)
        count += len(array)
    if count:
        yield np.concatenate(held)


def stored_rows(sources: Sources, shape: Layout, normalise: bool) -> Rows:
    """The rows of the features artefact."""
    pieces: dict[str, list[Piece]] = {
        split: [partial(rows_of_shard, path) for path in shards.shard_paths(sources.features, "features", split)]
        for split in SPLITS
    }
    return Rows(shape, pieces, normalise)


def rows_of_shard(path: Path) -> Iterator[np.ndarray]:
    """float16 [1, 1, patches, dim], one image at a time."""
    return (array[None, None] for _, array in shards.read_shard(path))


def computed_rows(
    sources: Sources, shape: Layout, normalise: bool, network: FrozenRows, machine: Machine, work: Path
) -> Rows:
    """The rows of `network`, without projection, for the images whose features are stored; written to `work`."""
    from stages.core.progress import bar

    pieces: dict[str, list[Piece]] = {}
    for split in SPLITS:
        source = ImageSplit(sources.images, split, machine.num_workers)
        chosen = stored_images(sources.features, split, source)
        starts = range(0, len(chosen), PART_IMAGES)
        with bar(f"rows {split}", len(starts), 0, "part") as progress:
            for start in starts:
                path, index = work / f"{split}-{start:09d}.npy", chosen[start : start + PART_IMAGES]
                if not path.is_file():
                    write_part(path, network, source, index, shape, machine.infer_batch_size)
                pieces.setdefault(split, []).append(partial(read_part, path))
                progress.update()
    return Rows(shape, pieces, normalise)


def stored_images(features: Path, split: str, source: ImageSplit) -> list[int]:
    """The numbers of the images whose features are stored, in their order."""
    places = {key: number for number, key in enumerate(source.keys)}
    paths = shards.shard_paths(features, "features", split)
    keys = [key for path in paths for key, _, _ in shards.members(path, "npy")]
    if strange := [key for key in keys if key not in places]:
        raise UserError(f"{features}: image {strange[0]} is not among the images. Run `dvc repro features`.")
    return [places[key] for key in keys]


def write_part(
    path: Path, network: FrozenRows, source: ImageSplit, index: list[int], shape: Layout, batch_size: int
) -> None:
    """One file of rows, float16 [images, layers, patches, dim]; it appears whole."""
    import numpy as np
    import torch

    from stages.core.pixels import to_float

    device, found = network.encoder.mean.device, []
    with torch.inference_mode():
        for start in range(0, len(index), batch_size):
            pixels = to_float(source.read(index[start : start + batch_size]), device)
            found.append(network(pixels).unflatten(1, (-1, shape.patches)).half().cpu().numpy())
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(found))
    artefact.write_atomically(path, buffer.getvalue())


def read_part(path: Path) -> Iterator[np.ndarray]:
    """float16 [1, layers, patches, dim], one image at a time."""
    import numpy as np

    yield from np.load(path, mmap_mode="r", allow_pickle=False)[:, None]
