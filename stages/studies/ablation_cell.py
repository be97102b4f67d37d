"""k-means of principal components of stored features, without the encoder, and metrics of the codes it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from stages.core import artifact
from stages.core.distributed import random_subset
from stages.core.metrics import bags, count_codes, mean_and_std, usage
from stages.core.params import Machine, impossible
from stages.core.progress import BASE_BYTES, print_cost_estimate
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit, image_facts
from stages.features.reader import FeatureSplit
from stages.studies.linear_probe import class_hits, has_classes
from stages.studies.params import AblationCell
from stages.studies.patches import PatchTable, lookup_psnr, patch_side, patches

PART_VECTORS = 2**16  # in float64 at once


@dataclass(frozen=True)
class Inputs:
    """Folders of an images and a features artifact, and the cell: codebook size and dimensions kept."""

    images: Path
    features: Path
    num_codes: int
    dim: int


def measure(inputs: Inputs, report: Path, params: AblationCell, machine: Machine) -> None:
    """Write metrics.json of one cell to the folder `report`."""
    chosen = check(inputs, params)
    if inputs.num_codes > (there := vectors_used(inputs, chosen, params)):
        why = f"{inputs.num_codes:,} codes need as many vectors to cluster, {there:,} there"
        print(f"ablation: skipped: {why}")
        cell = {"num_codes": inputs.num_codes, "dim": inputs.dim}
        write_metrics(report, {"images": artifact.images_digest(inputs.images), **cell, "skipped": why})
        return
    estimate_cost(inputs.features, report, chosen)
    splits = {name: FeatureSplit(inputs.features, name) for name in chosen}
    keys = {name: splits[name].keys(index) for name, index in chosen.items()}
    features = {name: splits[name].read(index).astype("float32") for name, index in chosen.items()}
    flat = features["train"].reshape(-1, features["train"].shape[-1])
    pca = fit_pca(flat, inputs.dim)
    sample = flat[random_subset(len(flat), params.max_vectors or len(flat), params.seed)]
    index = fit_index(pca.project(sample), inputs.num_codes, params.iterations, params.seed, machine.device != "cpu")
    codes, squared = {}, {}
    for name in features:
        codes[name], squared[name] = quantize(index, pca.project(features[name]))
    metrics: dict[str, Any] = {
        "images": artifact.images_digest(inputs.images), "num_codes": inputs.num_codes, "dim": pca.axes.shape[1],
        "usage": usage(count_codes(codes["val"], inputs.num_codes)),
        "features": errors(features["val"], pca, squared["val"]),
        **probe_codes(inputs, keys, codes, params, machine),
    }  # fmt: skip
    print("ablation: " + ", ".join(f"{name} {value:.4g}" for name, value in headline(metrics).items()))
    write_metrics(report, {**metrics, "protocol": [protocol(inputs, chosen, len(sample), params)]})


def check(inputs: Inputs, params: AblationCell) -> dict[str, np.ndarray]:
    """Numbers of the images used per split; more codes than max_vectors, or too many dimensions, are an error."""
    artifact.check_made_from(inputs.features, "features", images=inputs.images)
    config = artifact.read_config(inputs.features, "features")
    chosen = {split: random_subset(config["splits"][split]["images"], params.max_images, params.seed)
              for split in ("train", "val")}  # fmt: skip
    most = params.max_vectors or inputs.num_codes
    if not 0 < inputs.num_codes <= most:
        raise impossible("ablation.num_codes", inputs.num_codes, f"expected from 1 to the {most:,} vectors to cluster")
    if not 0 <= inputs.dim <= config["dim"]:
        raise impossible("ablation.dims", inputs.dim, f"expected from 0 to the {config['dim']} dimensions of a feature")
    patch_side(image_facts(inputs.images)["img_px"], round(config["num_patches"] ** 0.5))
    return chosen


def vectors_used(inputs: Inputs, chosen: dict[str, np.ndarray], params: AblationCell) -> int:
    """How many train vectors are clustered."""
    total = len(chosen["train"]) * artifact.read_config(inputs.features, "features")["num_patches"]
    return min(total, params.max_vectors or total)


def estimate_cost(features: Path, report: Path, chosen: dict[str, np.ndarray]) -> None:
    """Print the cost estimate; all features used and their projection are in memory."""
    config = artifact.read_config(features, "features")
    images = sum(map(len, chosen.values()))
    counts = {"images": images, "vectors": images * config["num_patches"]}
    memory = BASE_BYTES + counts["vectors"] * config["dim"] * 12
    print_cost_estimate("ablation", report, counts, disk_bytes=4096, memory_bytes=memory)


@dataclass(frozen=True)
class Pca:
    """Mean float64 [D] of the training vectors and `axes` float64 [D, d], orthonormal, by falling variance."""

    mean: np.ndarray
    axes: np.ndarray

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [..., D] -> float32 [..., d]."""
        return (vectors - self.mean.astype(np.float32)) @ self.axes.astype(np.float32)


def fit_pca(vectors: np.ndarray, dim: int) -> Pca:
    """The leading `dim` components of float32 [M, D]; 0 only centers and keeps all dimensions."""
    mean = vectors.mean(0, dtype=np.float64)
    if not dim:
        return Pca(mean, np.eye(vectors.shape[1]))
    covariance = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), PART_VECTORS):
        centered = vectors[start : start + PART_VECTORS] - mean
        covariance += centered.T @ centered
    return Pca(mean, np.linalg.eigh(covariance)[1][:, ::-1][:, :dim])


def fit_index(vectors: np.ndarray, num_codes: int, iterations: int, seed: int, on_gpu: bool) -> Any:
    """k-means of float32 [M, d] from k-means++; a faiss index over the float32 [num_codes, d] code vectors."""
    kmeans: Any = faiss.Kmeans(
        vectors.shape[1], num_codes, niter=iterations, seed=seed, gpu=on_gpu and faiss.get_num_gpus() > 0,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1, max_points_per_centroid=len(vectors),
    )  # fmt: skip
    kmeans.train(vectors)
    return kmeans.index


def quantize(index: Any, features: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [M, N, d] -> codes int64 [M, N] and the sum of squared distances to their vectors."""
    distances, codes = index.search(np.ascontiguousarray(features.reshape(-1, features.shape[-1])), 1)
    return codes.reshape(features.shape[:2]), float(distances.sum(dtype=np.float64))


def errors(features: np.ndarray, pca: Pca, squared_error: float) -> dict[str, float | str]:
    """`quantization_error`: share of the variance of float32 [M, N, D], all dimensions counted, that the codes lose;
    `projection_error`: the part of it that the PCA had already lost.

    Both are relative to the squared distances from the train mean. Since the axes are orthonormal, the part outside the
    components and the squared distances within them (`squared_error`) add up.
    """
    total, kept = 0.0, 0.0
    for part in features:
        total += float(np.square(part - pca.mean).sum())
        kept += float(np.square(pca.project(part), dtype=np.float64).sum())
    lost = max(0.0, total - kept)
    if not total:
        return {"skipped": "all features are equal"}
    return {"quantization_error": (lost + squared_error) / total, "projection_error": lost / total}


def probe_codes(
    inputs: Inputs, keys: dict[str, list[str]], codes: dict[str, np.ndarray], params: AblationCell, machine: Machine
) -> dict[str, dict[str, Any]]:
    """Groups `class` and `lookup` from the codes [M, N] of the images with these keys."""
    draws, seed = params.bootstrap_draws, params.seed
    (train, train_labels), (val, val_labels) = (
        patches_of(ImageSplit(inputs.images, split, machine.num_workers), keys[split], codes[split].shape[1])
        for split in ("train", "val")
    )
    table = PatchTable(inputs.num_codes, train.shape[2])
    table.add(codes["train"], train)
    found = mean_and_std("psnr_db", lookup_psnr(table.pictures(), codes["val"], val), draws, seed)
    if not has_classes(train_labels, val_labels):
        return {"class": {"skipped": "no classes"}, "lookup": found}
    counted = {split: bags(own, inputs.num_codes) for split, own in codes.items()}
    hits = class_hits(counted["train"], train_labels, counted["val"], val_labels, params.inverse_regularization)
    return {"class": mean_and_std("bag", hits, draws, seed), "lookup": found}


def patches_of(split: ImageSplit, keys: list[str], positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches uint8 [M, positions, p, p, 3] and labels int64 [M] of the images with these keys."""
    place = {key: number for number, key in enumerate(split.keys)}
    index = [place[key] for key in keys]
    return patches(split.read(index), round(positions**0.5), positions), split.labels[index]


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics printed in one line."""
    groups = ("usage", "features", "class", "lookup")
    named = {name: value for group in groups for name, value in metrics[group].items()}
    shown = {name: value for name, value in named.items() if not name.endswith(("_std", "_fraction", "skipped"))}
    return {"K": metrics["num_codes"], "dim": metrics["dim"], **shown}


def protocol(inputs: Inputs, chosen: dict[str, np.ndarray], vectors: int, params: AblationCell) -> dict[str, Any]:
    """How the metrics were measured."""
    return {
        "of": "ablation",
        "reference": "val",
        "reference_digest": artifact.digest(inputs.images)[:12],
        "features_digest": artifact.digest(inputs.features)[:12],
        "block": artifact.read_config(inputs.features, "features")["block"],
        "img_px": image_facts(inputs.images)["img_px"],
        "codebook": "faiss k-means from k-means++ after PCA",
        "train_images": len(chosen["train"]),
        "val_images": len(chosen["val"]),
        "vectors_used": vectors,
        "class": "logistic regression on bags of codes",
        **params.model_dump(),
    }
