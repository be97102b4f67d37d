"""Accuracy of linear probes on pooled encoder features, on pixels and on features of random weights, and by layer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core import artifact
from stages.core.distributed import random_subset, seed_of
from stages.core.hardware import pick_device
from stages.core.images import seeded_maps, thumbnails, to_float, to_uint8, warp
from stages.core.metrics import count_train
from stages.core.params import Machine
from stages.core.results import enlarge, grid, save_png, write_metrics
from stages.data.reader import ImageSplit, image_facts
from stages.encoder.encoder import Encoder, block_number, check_final_norm, load_encoder, random_twin
from stages.studies.layer_means import layers_of_pixels, means_of_maps
from stages.studies.layer_scores import score
from stages.studies.linear_probe import fit_classifier, has_classes
from stages.studies.params import Probe

IMAGES_SHOWN = 16


@dataclass(frozen=True)
class Inputs:
    """Folders of an images and an encoder artifact."""

    images: Path
    encoder: Path


def probe(inputs: Inputs, report: Path, params: Probe, machine: Machine) -> None:
    """Write metrics.json and augmented.png to the folder `report`."""
    block_number("probe.block", params.block, artifact.read_config(inputs.encoder, "encoder")["depth"])
    splits = {name: ImageSplit(inputs.images, name, machine.num_workers) for name in ("train", "val")}
    count_train(inputs.images, splits["train"].labels, splits["train"].classes)
    chosen = {name: random_subset(len(split), params.max_images, params.seed) for name, split in splits.items()}
    train_labels, val_labels = (splits[name].labels[chosen[name]] for name in ("train", "val"))
    with_classes = has_classes(train_labels, val_labels)
    if with_classes:  # val images of classes that the subset of train lacks are left out
        chosen["val"] = chosen["val"][np.isin(val_labels, train_labels)]
        val_labels = splits["val"].labels[chosen["val"]]
    few = few_label_draws(train_labels, params) if with_classes else []
    save_augmented(report / "augmented.png", splits["val"], params)
    images = {"images": artifact.images_digest(inputs.images)}
    if not with_classes:
        write_metrics(report, {**images, "skipped": "no classes"})
        return
    device = pick_device(machine.device)
    networks = {"raw": None, "random_twin": random_twin(inputs.encoder, params.seed, device)}
    networks["encoder"] = load_encoder(inputs.encoder, device)
    check_final_norm("probe.final_norm", params.final_norm, networks["encoder"])
    metrics, layers = {}, {}
    for name, network in networks.items():
        extractor = Extractor(network, params, machine.infer_batch_size)
        clean = {split: extractor.with_layers(splits[split], chosen[split]) for split in splits}
        (train, train_layers), (val, val_layers) = clean["train"], clean["val"]
        tests = {"clean": val, "augmented": extractor.extract(splits["val"], chosen["val"], augmented=True)}
        metrics[name] = accuracies(train, train_labels, tests, val_labels, few, params)
        if network is not None:
            layers[name] = by_layer(train_layers, train_labels, val_layers, val_labels, params)
        print(f"probe: {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in metrics[name].items()))
    entry = protocol(inputs, chosen, params) | classes_probed(train_labels, val_labels)
    write_metrics(report, {**images, **metrics, "layers": layers, "protocol": [entry]})


@dataclass(frozen=True)
class Extractor:
    """Features of images: the mean over the network's patches, or averaged pixels without a network."""

    network: Encoder | None
    params: Probe
    batch_size: int

    def extract(self, split: ImageSplit, index: np.ndarray, *, augmented: bool = False) -> np.ndarray:
        """float32 [M, D] of the images with these numbers, int64 [M]."""
        device = "cpu" if self.network is None else next(self.network.parameters()).device
        features = []
        for start in range(0, len(index), self.batch_size):
            batch = index[start : start + self.batch_size]
            pixels = to_float(split.read(batch), device)
            pixels = warp(pixels, augmentation_maps(batch, self.params)) if augmented else pixels
            features.append(self.pooled(pixels).cpu())
        return torch.cat(features).numpy()

    def with_layers(self, split: ImageSplit, index: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """`extract` of the images themselves, and in the same pass the mean of every layer; none without a network."""
        if self.network is None:
            return self.extract(split, index), []
        parts = [index[start : start + self.batch_size] for start in range(0, len(index), self.batch_size)]
        if not self.network.plain:
            batches = (to_float(split.read(part), self.network.mean.device) for part in parts)
            return self.extract(split, index), means_of_maps(self.network, batches)
        pooled: list[Tensor] = []
        layers = replace(layers_of_pixels(self.network), run=lambda pixels: pooled.append(self.pooled(pixels).cpu()))
        means = layers.means(to_float(split.read(part), self.network.mean.device) for part in parts)
        return torch.cat(pooled).numpy(), means

    @torch.inference_mode()
    def pooled(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [-1, 1] -> float32 [B, D]."""
        if self.network is None:
            return thumbnails(pixels, self.params.raw_px)
        depth = self.network.config["depth"]
        block = block_number("probe.block", self.params.block, depth)
        return self.network(pixels, blocks=[block, depth - 1], final_norm=self.params.final_norm)[0].mean(1)


def by_layer(
    train: list[np.ndarray], train_labels: np.ndarray, val: list[np.ndarray], val_labels: np.ndarray, params: Probe
) -> list[dict[str, Any]]:
    """Accuracy on val of every layer, from its features float32 [M, D] of both splits."""
    heads = (fit_classifier(one, train_labels, params.inverse_regularization) for one in train)
    scores = (score(head, one, val_labels) for head, one in zip(heads, val, strict=True))
    return [{"layer": number, **one} for number, one in enumerate(scores)]


def augmentation_maps(index: np.ndarray, params: Probe) -> Tensor:
    """float [B, 2, 3]: the random affine map of each val image, a function of the seed and the image's number."""
    return seeded_maps([seed_of("probe", params.seed, int(i)) for i in index], params.augmented)


def accuracies(
    train: np.ndarray, train_labels: np.ndarray, tests: dict[str, np.ndarray], val_labels: np.ndarray,
    few: list[np.ndarray], params: Probe,
) -> dict[str, float]:  # fmt: skip
    """{clean, augmented}: trained on all of `train`; few_*: on each subset in `few`, mean and deviation over them."""
    strength = params.inverse_regularization
    classify = fit_classifier(train, train_labels, strength)
    found = {key: float((classify(features) == val_labels).mean()) for key, features in tests.items()}
    classifiers = [fit_classifier(train[draw], train_labels[draw], strength) for draw in few]
    for key, features in tests.items():
        scores = [float((one(features) == val_labels).mean()) for one in classifiers]
        found |= {f"few_{key}": float(np.mean(scores)), f"few_{key}_std": float(np.std(scores, ddof=1))}
    return found


def few_label_draws(labels: np.ndarray, params: Probe) -> list[np.ndarray]:
    """few_draws seeded subsets, int64, with `shots` images of every class in `labels`, or all of a smaller class."""
    members = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    rng = np.random.default_rng(params.seed)
    return [
        np.concatenate([rng.choice(own, min(params.shots, len(own)), replace=False) for own in members])
        for _ in range(params.few_draws)
    ]


def protocol(inputs: Inputs, chosen: dict[str, np.ndarray], params: Probe) -> dict[str, Any]:
    """How the metrics were measured."""
    return {
        "of": "probe",
        "reference": "val",
        "reference_digest": artifact.digest(inputs.images)[:12],
        "img_px": image_facts(inputs.images)["img_px"],
        "classifier": "logistic regression, penalty relative to the mean variance",
        "train_images": len(chosen["train"]),
        "val_images": len(chosen["val"]),
        "encoder_sha256": artifact.read_config(inputs.encoder, "encoder")["files"]["model.safetensors"],
        **params.model_dump(),
    }


def classes_probed(train_labels: np.ndarray, val_labels: np.ndarray) -> dict[str, int]:
    """How many classes are learned, how many of them are tested, and the images of the smallest one learned."""
    learned, counts = np.unique(train_labels, return_counts=True)
    tested = len(np.unique(val_labels))
    return {"classes": len(learned), "val_classes": tested, "fewest_train_images_of_a_class": int(counts.min())}


def save_augmented(path: Path, val: ImageSplit, params: Probe) -> None:
    """Write a picture of val images above their augmented copies."""
    index = random_subset(len(val), params.max_images, params.seed)[:IMAGES_SHOWN]
    images = val.read(index)
    augmented = to_uint8(warp(to_float(images), augmentation_maps(index, params)))
    save_png(path, grid(np.concatenate([images, augmented]), len(index), enlarge(val.img_px)))
