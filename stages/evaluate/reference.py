"""The reference artifact: features of real images, for comparison with reconstructions and samples.

A seeded subset of train images is the reference of generation metrics. All val images are the reference of
reconstructions; their own metrics are what perfect samples would score.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core import UserError, artifact
from stages.core.distributed import random_subset, rank
from stages.core.hardware import pick_device, process_group
from stages.core.networks import load_tensors, save_tensors
from stages.core.params import Machine
from stages.core.progress import LARGE_BASE_BYTES, print_cost_estimate
from stages.data.reader import ImageSplit, num_images
from stages.evaluate.classifier import TYPE as CLASSIFIER_TYPE
from stages.evaluate.extractors import FeatureExtractor, open_extractors
from stages.evaluate.image_features import ImageFeatures, extract_all, make_extractor
from stages.evaluate.neighbors import CHUNK, DISTANCES, OTHERS, distances_to, knn_radii
from stages.evaluate.params import ReferenceParams

TYPE = "reference"
FILE = "reference.safetensors"
INCEPTION_DIM = 2048 + 1008  # features and logits


@dataclass(frozen=True)
class Reference:
    """R train images and all val images.

    `index`, `labels` int64 [R]: numbers of the train images in their split, and their classes (-1 without).
    `knn_radii` {extractor: float32 [R]}: of precision, empty for more neighbors than there are other train images.
    `val_distances` {"pixel", "embedded": float64 [M]}: from each val image to the nearest of the train images.
    """

    train: ImageFeatures
    index: np.ndarray
    labels: np.ndarray
    knn_radii: dict[str, Tensor]
    val: ImageFeatures
    val_distances: dict[str, np.ndarray]
    config: dict[str, Any]


def build_reference(
    images: Path, encoder: Path, classifier: Path, out: Path, params: ReferenceParams, machine: Machine
) -> None:
    """Write the artifact `out`; every process of a torchrun reads its share of the images."""
    artifact.check_made_from(classifier, "classifier", images=images)
    _print_cost_estimate(images, encoder, classifier, out, params)
    extractors = open_extractors(encoder, classifier, pick_device(machine.device), params.inception_weights)
    train, val = (ImageSplit(images, split, machine.num_workers) for split in ("train", "val"))
    index = random_subset(len(train), count_train(images, params), params.seed)
    extract, size = make_extractor(extractors, params.pixel_px), machine.infer_batch_size
    with process_group():
        train_features = extract_all(len(index), lambda run: train.read(index[run.start : run.stop]), extract, size)
        val_features = extract_all(len(val), val.read, extract, size)
    if rank() > 0:
        return
    facts = {name: extractor.facts for name, extractor in extractors.items()}
    inputs = {"images": images, "encoder": encoder, "classifier": classifier}
    config = {**params.model_dump(), "count": len(index), "val_count": len(val), "extractors": facts}
    config["inputs"] = {name: artifact.digest(folder) for name, folder in inputs.items()}
    with artifact.new_artifact(out, TYPE, config) as folder:
        tensors = tensors_of(train_features, val_features, params.prc_neighbors)
        numbers = {"index": torch.from_numpy(index), "labels": torch.from_numpy(train.labels[index])}
        save_tensors(folder / FILE, {**numbers, **tensors})
        print(f"reference: {len(index):,} train and {len(val):,} val images, by {', '.join(extractors)}")


def tensors_of(train: ImageFeatures, val: ImageFeatures, neighbors: int) -> dict[str, Tensor]:
    """What load_reference reads."""
    found = {"train.thumbs": train.thumbs, "val.thumbs": val.thumbs}
    for name, features in train.features.items():
        found |= {f"train.features.{name}": features, f"val.features.{name}": val.features[name]}
        found |= {f"train.radii.{name}": knn_radii(features, neighbors)} if neighbors < len(features) else {}
    found |= {f"val.logits.{name}": logits for name, logits in val.logits.items()}
    distances = distances_to(val, train)
    return found | {f"val.distances.{name}": torch.from_numpy(one) for name, one in distances.items()}


def load_reference(folder: Path, extractors: dict[str, FeatureExtractor]) -> Reference:
    """The artifact; other networks than those of `extractors` are an error."""
    config = artifact.read_config(folder, TYPE)
    if config["extractors"] != {name: extractor.facts for name, extractor in extractors.items()}:
        raise UserError(f"{folder}: made with other networks than these. Run `dvc repro reference`.")
    tensors = load_tensors(folder, FILE)

    def of(part: str, names: Iterable[str] = extractors) -> dict[str, Tensor]:
        return {name: tensors[f"{part}.{name}"] for name in names if f"{part}.{name}" in tensors}

    train = ImageFeatures(of("train.features"), {}, tensors["train.thumbs"])
    val = ImageFeatures(of("val.features"), of("val.logits"), tensors["val.thumbs"])
    distances = {name: one.numpy() for name, one in of("val.distances", DISTANCES).items()}
    index, labels = tensors["index"].numpy(), tensors["labels"].numpy()
    return Reference(train, index, labels, of("train.radii"), val, distances, config)


def count_train(images: Path, params: ReferenceParams) -> int:
    """Number of train images in the reference."""
    whole = num_images(images, "train")
    return min(whole, params.max_images or whole)


def _print_cost_estimate(images: Path, encoder: Path, classifier: Path, out: Path, params: ReferenceParams) -> None:
    train, val = count_train(images, params), num_images(images, "val")
    shape = artifact.read_config(classifier, CLASSIFIER_TYPE)["shape"]
    dim = artifact.read_config(encoder, "encoder")["dim"] + (2 * shape["widths"][-1] if shape else 0)
    dim += INCEPTION_DIM if params.inception_weights else 0
    counts = {"train images to compare with": train, "val images": val}
    disk_bytes = (train + val) * 4 * (dim + 3 * params.pixel_px**2 + 3)
    print_cost_estimate("reference", out, counts, disk_bytes, peak_bytes(train + val, dim, params.pixel_px))


def peak_bytes(count: int, dim: int, pixel_px: int) -> int:
    """Memory for `count` images: float32 features and thumbnails; of OTHERS a copy, and twice their distances.

    Features and thumbnails count twice: they are copied when they are written, and those of samples stand beside them.
    """
    return LARGE_BASE_BYTES + count * 8 * (dim + 3 * pixel_px**2) + min(count, OTHERS) * (4 * dim + 8 * CHUNK)
