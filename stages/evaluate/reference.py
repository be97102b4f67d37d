"""The reference artifact: features of real images, for comparison with reconstructions and samples.

A seeded subset of train images shows near copies, and is what samples are compared with unless the params say
otherwise. All val images are the reference of reconstructions; their own metrics are what perfect samples would score.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from stages.core import UserError, artifact
from stages.core.code import track
from stages.core.distributed import random_subset, rank
from stages.core.hardware import pick_device, process_group
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import LARGE_BASE_BYTES, print_cost_estimate
from stages.data.decode import pillow_warnings
from stages.data.listing import facts_of as facts_of_files
from stages.data.reader import ImageSplit, num_images
from stages.evaluate.classifier import TYPE as CLASSIFIER_TYPE
from stages.evaluate.compared import Compared, Folder, compare, gaussian_tensors, read_statistics
from stages.evaluate.extractors import FeatureExtractor, open_extractors
from stages.evaluate.frechet import Gaussian
from stages.evaluate.image_features import ImageFeatures, extract_all, make_extractor
from stages.evaluate.neighbors import CHUNK, DISTANCES, MOST_VALUES, OTHERS, distances_to
from stages.evaluate.params import PRETRAINED, ReferenceParams
from stages.evaluate.rows import StoredRows

TYPE = "reference"
FILE = "reference.safetensors"


@dataclass(frozen=True)
class Reference:
    """R train images and all val images; their features and thumbnails are read from disk when asked for.

    `index`, `labels` int64 [R]: numbers of the train images in their split, and their classes (-1 without).
    `val_distances` {"pixel", "embedded": float64 [M]}: from each val image to the nearest of the train images.
    `compared`: what samples are compared with.
    """

    train: ImageFeatures
    index: np.ndarray
    labels: np.ndarray
    val: ImageFeatures
    val_distances: dict[str, np.ndarray]
    compared: Compared
    config: dict[str, Any]


def build_reference(
    images: Path, encoder: Path, classifier: Path, out: Path, params: ReferenceParams, machine: Machine
) -> None:
    """Write the artifact `out`; every process of a torchrun reads its share of the images."""
    artifact.check_made_from(classifier, "classifier", images=images)
    _print_cost_estimate(images, encoder, classifier, out, params)
    extractors = open_extractors(encoder, classifier, pick_device(machine.device), params.extractors)
    train, val = (ImageSplit(images, split, machine.num_workers) for split in ("train", "val"))
    other = open_statistics(params, extractors, train.img_px)
    index = random_subset(len(train), count_train(images, params), params.seed)
    extract, size = make_extractor(extractors, params.pixel_px), machine.infer_batch_size
    with process_group(), pillow_warnings():
        found = {"train": extract_all(len(index), lambda run: train.read(index[run.start : run.stop]), extract, size)}
        found["val"] = extract_all(len(val), val.read, extract, size)
        if isinstance(other, Folder):
            found["statistics"] = extract_all(len(other), other.read, extract, size)
    if rank() > 0:
        return
    facts = {name: extractor.facts for name, extractor in extractors.items()}
    inputs = {"images": images, "encoder": encoder, "classifier": classifier}
    config = {**params.model_dump(), "count": len(index), "val_count": len(val), "extractors": facts}
    config |= {"extractors_from": params.extractors, "compared": facts_of(other, params)}
    config["inputs"] = {name: artifact.digest(folder) for name, folder in inputs.items()}
    with artifact.new_artifact(out, TYPE, config) as folder:
        numbers = {"index": torch.from_numpy(index), "labels": torch.from_numpy(train.labels[index])}
        numbers["val.labels"] = torch.from_numpy(val.labels)
        save_tensors(folder / FILE, {**numbers, **tensors_of(found, other, params)})
        print(f"reference: {len(index):,} train and {len(val):,} val images, by {', '.join(extractors)}")


def open_statistics(
    params: ReferenceParams, extractors: dict[str, FeatureExtractor], px: int
) -> Folder | Gaussian | None:
    """What `reference.statistics` names; None where samples are compared with train or val images."""
    if params.compare_with != "statistics":
        return None
    if not params.from_npz:
        track("reference.statistics", partial(facts_of_files, {"": Path(params.statistics)}))
        return Folder(Path(params.statistics), px, params)
    if (by := params.statistics_by) not in extractors:
        raise UserError(f"reference.statistics_by = {by}: these images have no classes, so there is no classifier")
    track("reference.statistics", partial(artifact.sha256, Path(params.statistics)))
    return read_statistics(Path(params.statistics), by, extractors[by].facts["dim"])


def facts_of(other: Folder | Gaussian | None, params: ReferenceParams) -> dict[str, Any]:
    """Entries of the protocol, where samples are compared with other images than those of the data stage."""
    if isinstance(other, Folder):
        crop = f"folder, {other.px} px square, center"
        return {"reference_digest": other.digest()[:12], "reference_count": len(other), "reference_crop": crop}
    if other is None:
        return {}
    digest = artifact.sha256(Path(params.statistics))[:12]
    return {"reference_digest": digest, "reference_count": None, "reference_of": params.statistics_by}


def tensors_of(
    found: dict[str, ImageFeatures], other: Folder | Gaussian | None, params: ReferenceParams
) -> dict[str, Tensor]:
    """What load_reference reads; `found` has the features of train, of val and, of a folder, of statistics."""
    tensors: dict[str, Tensor] = {}
    for part, images in found.items():
        tensors |= {f"{part}.features.{name}": one for name, one in images.features.items()}
        tensors |= {f"{part}.thumbs": images.thumbs} if part != "statistics" else {}
    tensors |= {f"val.logits.{name}": one for name, one in found["val"].logits.items()}
    distances = distances_to(found["val"], found["train"])
    tensors |= {f"val.distances.{name}": torch.from_numpy(one) for name, one in distances.items()}
    if isinstance(other, Gaussian):
        return tensors | gaussian_tensors(params.statistics_by, other)
    return tensors | compare(found[params.compare_with].features, (params.prc_neighbors, params.density_neighbors))


def load_reference(folder: Path, extractors: dict[str, FeatureExtractor]) -> Reference:
    """The artifact; other networks than those of `extractors` are an error."""
    config = artifact.read_config(folder, TYPE)
    if config["extractors"] != {name: extractor.facts for name, extractor in extractors.items()}:
        raise UserError(f"{folder}: made with other networks than these. Run `dvc repro -f -s reference`.")
    path = artifact.checked(folder, FILE)
    with safe_open(path, "pt") as file:
        small = [name for name in file.keys() if ".features." not in name and not name.endswith(".thumbs")]
        tensors = {name: file.get_tensor(name).clone() for name in small}
        stored: dict[str, Any] = {name: StoredRows(path, name) for name in file.keys() if name not in small}

    def of(part: str, names: Iterable[str] = extractors) -> dict[str, Any]:
        return {name: known[f"{part}.{name}"] for name in names if f"{part}.{name}" in known}

    known = {**tensors, **stored}
    train = ImageFeatures(of("train.features"), {}, stored["train.thumbs"])
    val = ImageFeatures(of("val.features"), of("val.logits"), stored["val.thumbs"])
    distances = {name: one.numpy() for name, one in of("val.distances", DISTANCES).items()}
    index, labels = tensors["index"].numpy(), tensors["labels"].numpy()
    given = {"train": (train.features, labels), "val": (val.features, tensors["val.labels"].numpy())}
    features = of("statistics.features")
    other = (features, np.full(len(next(iter(features.values()), ())), -1))
    features, compared_labels = given.get(config["compare_with"], other)
    count = len(compared_labels)
    means, covariances = of("compared.mean"), of("compared.covariance")
    gaussians = {name: Gaussian(mean.numpy(), covariances[name].numpy(), count) for name, mean in means.items()}
    radii, facts = of("compared.radii"), config["compared"]
    compared = Compared(config["compare_with"], gaussians, features, radii, compared_labels, facts)
    return Reference(train, index, labels, val, distances, compared, config)


def count_train(images: Path, params: ReferenceParams) -> int:
    """Number of train images in the reference."""
    whole = num_images(images, "train")
    return min(whole, params.max_images or whole)


def _print_cost_estimate(images: Path, encoder: Path, classifier: Path, out: Path, params: ReferenceParams) -> None:
    train, val = count_train(images, params), num_images(images, "val")
    shape = artifact.read_config(classifier, CLASSIFIER_TYPE)["shape"]
    dim = artifact.read_config(encoder, "encoder")["dim"] + (2 * shape["widths"][-1] if shape else 0)
    dim += sum(PRETRAINED[name].dim for name in params.extractors)
    counts = {"train images to compare with": train, "val images": val}
    disk_bytes = (train + val) * 4 * (dim + 3 * params.pixel_px**2 + 3)
    print_cost_estimate("reference", out, counts, disk_bytes, peak_bytes(train + val, dim, params.pixel_px))


def peak_bytes(count: int, dim: int, pixel_px: int) -> int:
    """Memory for `count` images: float32 features and thumbnails once, as the reference's are read from disk.

    Beside them a block of OTHERS is copied and compared with CHUNK images at a time.
    """
    others = min(count, max(CHUNK, min(OTHERS, MOST_VALUES // dim)))
    return LARGE_BASE_BYTES + count * 4 * (dim + 3 * pixel_px**2) + others * (8 * dim + 8 * CHUNK)
