"""Features that k-means clusters: read from the features artifact or computed by a network, then mapped (PCA, scaling).

Computed features are stored in scratch/ as float16, like those of the features artifact, so that each pass over them
reads a file instead of running the network; parts that a killed attempt left are used again.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch

from stages.codebook.encoder_features import EncoderFeatures, FeatureMap
from stages.codebook.params import Inputs, Kmeans
from stages.codebook.sharing import add_up, from_first
from stages.core import UserError, artifact
from stages.core.distributed import random_subset, rank, world_size
from stages.core.hardware import barrier
from stages.core.images import to_float
from stages.core.params import Machine, impossible
from stages.core.progress import bar
from stages.core.schemas import maps_of
from stages.core.scratch import read_hashed, write_hashed
from stages.data.reader import ImageSplit
from stages.encoder.encoder import block_number
from stages.encoder.params import check_equal_maps
from stages.features.reader import FeatureSplit

SPLITS = ("train", "val")
PART_IMAGES = 128  # images in a file of computed features
READ_IMAGES = 16  # images whose stored features are read at once
FLOOR = 1e-6  # of the largest variance; whitening treats components of less variance as if they had this much
Piece = Callable[[], Iterator[np.ndarray]]  # reads one file in arrays, float16 [images, codebooks, patches, D]


@dataclass(frozen=True)
class Layout:
    """Origin and sizes of the features: `blocks` concatenated or one codebook each, `patches` positions per image."""

    blocks: list[int]
    codebooks: int
    patches: int
    dim: int  # of a feature, before any projection
    final_norm: bool
    computed: bool
    images: dict[str, int]  # by split

    @property
    def train_vectors(self) -> int:
        """Train features per codebook."""
        return self.images["train"] * self.patches

    @property
    def disk_bytes(self) -> int:
        """Size of the computed features in scratch."""
        return sum(self.images.values()) * self.patches * self.codebooks * self.dim * 2 if self.computed else 0


def layout_of(inputs: Inputs, params: Kmeans) -> Layout:
    """From the configs of the input artifacts; `UserError` for a block that the encoder does not have."""
    stored = artifact.read_config(inputs.features, "features")
    maps, key = maps_of(artifact.read_config(inputs.encoder, "encoder")), f"{inputs.section}.blocks"
    blocks = [block_number(key, block, len(maps)) for block in params.blocks] or [stored["block"]]
    if len({*blocks}) < len(blocks):
        raise impossible(key, params.blocks, "expected different blocks")
    check_equal_maps(key, blocks, maps)
    codebooks, (side, dim) = len(blocks) if params.layers == "separate" else 1, maps[blocks[0]]
    return Layout(
        blocks, codebooks, side**2, dim * len(blocks) // codebooks, stored["final_norm"],
        computed=params.encoder == "random" or blocks != [stored["block"]],
        images={split: stored["splits"][split]["images"] for split in SPLITS},
    )  # fmt: skip


class Features:
    """The features of both splits, one piece in memory at a time.

    `chunks` and `sample` return float32, mapped by `feature_map`, and of unit length if `normalize`.
    """

    def __init__(self, layout: Layout, pieces: dict[str, list[Piece]], normalize: bool):
        self.layout, self.pieces, self.normalize = layout, pieces, normalize
        self.feature_map: FeatureMap | None = None

    def arrays(self, split: str, codebook: int, order: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """float16 [M, D] features of a codebook as stored; `order` lists the numbers of the pieces, all by default."""
        for number in range(len(self.pieces[split])) if order is None else order:
            for array in self.pieces[split][number]():  # [images, codebooks, patches, D]
                yield array[:, codebook].reshape(-1, self.layout.dim)

    def chunks(self, split: str, codebook: int, size: int, order: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """float32 [size, d] mapped features of a codebook, piece by piece; the last chunk may be shorter."""
        for chunk in regroup(self.arrays(split, codebook, order), size):
            yield self.mapped(chunk, codebook)

    def own(self, split: str) -> range:
        """The numbers of the pieces that this process reads of those that a torchrun shares."""
        return range(len(self.pieces[split]))[rank() :: world_size()]

    def sample(self, codebook: int, used: int, seed: int) -> np.ndarray:
        """float32 [used, d]: a seeded subset of a codebook's train features, in their order."""
        chosen = random_subset(self.layout.train_vectors, used, seed)
        sample = np.empty((used, self.layout.dim), np.float32)
        filled = passed = 0
        for array in self.arrays("train", codebook):
            places = chosen[filled : np.searchsorted(chosen, passed + len(array))] - passed
            sample[filled : filled + len(places)] = array[places]
            filled, passed = filled + len(places), passed + len(array)
        return self.mapped(sample, codebook)

    def mapped(self, features: np.ndarray, codebook: int) -> np.ndarray:
        """float32 [M, d], as clustered; normalized here, because faiss's `spherical` normalizes only centroids."""
        features = features.astype(np.float32, copy=False)
        if self.feature_map:
            features = self.feature_map.of(codebook, torch.from_numpy(features)).numpy()
        length = np.linalg.norm(features, axis=1, keepdims=True) if self.normalize else 1.0
        return features / np.maximum(length, 1e-12) if self.normalize else features


def regroup(arrays: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The vectors of arrays [M, D] as read-only arrays of `size` vectors; the last one may be shorter."""
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


def stored_features(inputs: Inputs, layout: Layout, normalize: bool) -> Features:
    """Those of the features artifact; a piece is a shard."""
    splits, pieces = artifact.read_config(inputs.features, "features")["splits"], {}
    for split in SPLITS:
        source = FeatureSplit(inputs.features, split)
        ends = accumulate((shard["samples"] for shard in splits[split]["shards"]), initial=0)
        pieces[split] = [partial(read_stored, source, start, stop) for start, stop in pairwise(ends)]
    return Features(layout, pieces, normalize)


def read_stored(source: FeatureSplit, start: int, stop: int) -> Iterator[np.ndarray]:
    """float16 [up to READ_IMAGES, 1, patches, D] of images start … stop - 1 of a split."""
    for first in range(start, stop, READ_IMAGES):
        yield source.read(np.arange(first, min(first + READ_IMAGES, stop)))[:, None]


def computed_features(
    inputs: Inputs, layout: Layout, normalize: bool, network: EncoderFeatures, machine: Machine, work: Path
) -> Features:
    """Those of `network`, without map, for the images whose features are stored; each process writes some to `work`."""
    pieces: dict[str, list[Piece]] = {}
    for split in SPLITS:
        source = ImageSplit(inputs.images, split, machine.num_workers)
        images = stored_images(inputs.features, split, source)
        parts = {work / f"{split}-{i:09d}.npy": images[i : i + PART_IMAGES] for i in range(0, len(images), PART_IMAGES)}
        own = list(parts)[rank() :: world_size()]
        with bar(f"features {split}", len(own), 0, "part") as progress:
            for path in own:
                if read_hashed(path) is None:
                    write_part(path, network, source, parts[path], layout, machine.infer_batch_size)
                progress.update()
        pieces[split] = [partial(read_part, path) for path in parts]
    barrier()
    return Features(layout, pieces, normalize)


def stored_images(features: Path, split: str, source: ImageSplit) -> list[int]:
    """The numbers of the images whose features are stored, in their order."""
    stored, numbers = FeatureSplit(features, split), {key: number for number, key in enumerate(source.keys)}
    keys = stored.keys(np.arange(len(stored)))
    if strange := [key for key in keys if key not in numbers]:
        raise UserError(f"{features}: image {strange[0]} is not among the images. Run `dvc repro features`.")
    return [numbers[key] for key in keys]


def write_part(
    path: Path, network: EncoderFeatures, source: ImageSplit, images: list[int], layout: Layout, batch_size: int
) -> None:
    """Write one file of features atomically, float16 [images, codebooks, patches, D]."""
    device, found = network.encoder.mean.device, []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = to_float(source.read(images[start : start + batch_size]), device)
            found.append(network(pixels).unflatten(1, (-1, layout.patches)).half().cpu().numpy())
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(found))
    write_hashed(path, buffer.getvalue())


def read_part(path: Path) -> Iterator[np.ndarray]:
    """float16 [1, codebooks, patches, D], image by image."""
    yield from np.load(path, mmap_mode="r", allow_pickle=False)[:, None]


def fit_feature_map(features: Features, params: Kmeans) -> FeatureMap | None:
    """The map that `params` ask for, from all train features; None if they ask for none."""
    side_by_side = len(features.layout.blocks) // features.layout.codebooks
    if side_by_side == 1 and not params.pca_dim and not params.whiten:
        return None
    maps = []
    for codebook in range(features.layout.codebooks):
        mean, covariance = moments(features, codebook, params.chunk_vectors)
        solve = partial(map_of, mean, covariance, side_by_side, params.pca_dim, params.whiten)
        maps.append(from_first(solve))  # processors of other makes find other eigenvectors
    shift, weight = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*maps, strict=True))
    return FeatureMap(shift, weight)


def moments(features: Features, codebook: int, chunk_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 mean [D] and covariance [D, D] (divided by M) of a codebook's train features as stored."""
    first = next(regroup(features.arrays("train", codebook), chunk_vectors))
    origin = first.astype(np.float64).mean(0)  # sums around a point near the mean lose no digits
    count, total, product = np.zeros(1), np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
    for chunk in regroup(features.arrays("train", codebook, features.own("train")), chunk_vectors):
        chunk = chunk.astype(np.float64) - origin
        count += len(chunk)
        total += chunk.sum(0)
        product += chunk.T @ chunk
    add_up(count, total, product)
    offset = total / count
    return origin + offset, product / count - np.outer(offset, offset)


def map_of(
    mean: np.ndarray, covariance: np.ndarray, layers: int, pca_dim: int, whiten: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shift [D] and weight, [D] or [D, d], of a `FeatureMap`.

    Two or more concatenated `layers` are first scaled to a mean variance of 1 each. Then the map projects onto the
    `pca_dim` principal components of largest variance v (0: all) and multiplies each by v^(-whiten / 2).
    """
    variance = np.diag(covariance).reshape(layers, -1).mean(1)
    scale = np.repeat(variance**-0.5 if layers > 1 else np.ones(1), len(mean) // layers)
    if not pca_dim and not whiten:
        return np.zeros_like(mean), scale
    values, vectors = np.linalg.eigh(scale[:, None] * covariance * scale)
    values, vectors = values[::-1], vectors[:, ::-1]
    if pca_dim:
        values, vectors = values[:pca_dim], vectors[:, :pca_dim]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    vectors = vectors * np.sign(largest)  # a component's sign is arbitrary: its largest entry is positive
    return mean, scale[:, None] * vectors * np.maximum(values, FLOOR * values[0]) ** (-whiten / 2)
