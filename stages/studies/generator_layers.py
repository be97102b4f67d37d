"""Linear probes of every layer of a generator, beside the same network untrained and the codes themselves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.codebook.quantizers import load_codebook
from stages.core import UserError, artifact
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.images import to_float
from stages.core.metrics import bags
from stages.core.params import Machine
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit
from stages.encoder.encoder import load_encoder, random_twin
from stages.generator.open_network import open_network
from stages.generator.transformer import check_unconditional
from stages.studies.code_layers import layers_of_codes, untrained
from stages.studies.encoder_probe import classes_probed
from stages.studies.layer_means import Layers, layers_of_pixels
from stages.studies.layer_scores import obstacle, score_by_folds, summary
from stages.studies.linear_probe import has_classes
from stages.studies.params import LayerProbe
from stages.tokens.reader import load_tokens

SPLITS = ("train", "val")
FEATURE = "mean over positions of what each block reads and the last one gives, before the last normalization"


@dataclass(frozen=True)
class Chosen:
    """The images in use of train and val: their numbers in the split and their classes, int64 [M] each."""

    index: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def obstacle(self) -> str:
        """Why no layer can be chosen, or ""."""
        return obstacle(self.labels["train"], self.labels["val"])

    def batches(self, split: str, read: Callable[[np.ndarray], Any], size: int) -> Iterable[Any]:
        """What `read` gives of the numbers of `size` images at a time."""
        index = self.index[split]
        return (read(index[start : start + size]) for start in range(0, len(index), size))


def choose(labels: dict[str, np.ndarray], params: LayerProbe) -> Chosen:
    """At most max_images of each split; of val only those of classes that the ones of train have."""
    index = {split: random_subset(len(own), params.max_images, params.seed) for split, own in labels.items()}
    train, val = (labels[split][index[split]] for split in SPLITS)
    if has_classes(train, val):
        index["val"] = index["val"][np.isin(val, train)]
    return Chosen(index, {split: own[index[split]] for split, own in labels.items()})


def probe_codes(
    tokens: Path, codebook: Path, generator: Path, report: Path, params: LayerProbe, machine: Machine
) -> None:
    """Write metrics.json of a generator that reads codes to the folder `report`."""
    artifact.check_made_from(generator, f"generator@{generator.name}", tokens=tokens)
    artifact.check_made_from(tokens, f"tokens@{tokens.name}", codebook=codebook)
    device = pick_device(machine.device)
    network, config, kind = open_network(generator, device)
    data = {split: load_tokens(tokens, split) for split in SPLITS}
    chosen = choose({split: own.labels for split, own in data.items()}, params)
    facts = {key: config[key] for key in ("name", "kind", "tokenizer")} | {"num_codes": network.num_codes}
    facts["condition"] = "none: the null caption" if "text_encoder" in config else "none: the null class"
    head = {"images": artifact.images_digest(tokens), "generator": facts}
    if why := never_without(config) or chosen.obstacle():
        write_metrics(report, {**head, "skipped": why})
        return
    codes = {split: data[split].codes[0][chosen.index[split]].astype(np.int64) for split in SPLITS}
    networks = {"trained": network, "untrained": untrained(kind, config["shape"], params.seed).to(device)}
    layers = {
        name: probed(
            layers_of_codes(one),
            {split: torch.from_numpy(codes[split]).to(device).split(machine.infer_batch_size) for split in SPLITS},
            chosen, params,
        )
        for name, one in networks.items()
    }  # fmt: skip
    vectors = load_codebook(codebook, artifact.read_config(codebook, "codebook")).vectors.numpy()
    counted = {split: bags(own, len(vectors)) for split, own in codes.items()}
    head["codes"] = probe_bags(counted, vectors, chosen, params)
    write(report, head, layers, protocol(tokens, chosen, params))


def never_without(config: dict[str, Any]) -> str:
    """Why a generator cannot be run without a class or caption, or ""."""
    try:
        check_unconditional(config["name"], config, "no class given")
    except UserError as error:
        return str(error)
    return ""


def probe_pixels(images: Path, encoder: Path, report: Path, params: LayerProbe, machine: Machine) -> None:
    """The same of an encoder that reads images, such as that of an alternating generator."""
    device, size = pick_device(machine.device), machine.infer_batch_size
    data = {split: ImageSplit(images, split, machine.num_workers) for split in SPLITS}
    chosen = choose({split: own.labels for split, own in data.items()}, params)
    name = artifact.read_config(encoder, "encoder")["name"]
    head = {"images": artifact.images_digest(images), "encoder": {"name": name, "condition": "none: it reads images"}}
    if why := chosen.obstacle():
        write_metrics(report, {**head, "skipped": why})
        return
    networks = {"trained": load_encoder(encoder, device), "untrained": random_twin(encoder, params.seed, device)}
    layers = {}
    for name, one in networks.items():
        batches = {
            split: chosen.batches(split, lambda index, split=split: to_float(data[split].read(index), device), size)
            for split in SPLITS
        }
        layers[name] = probed(layers_of_pixels(one), batches, chosen, params)
    write(report, head, layers, protocol(images, chosen, params))


def probed(
    layers: Layers, batches: dict[str, Iterable[Any]], chosen: Chosen, params: LayerProbe
) -> list[dict[str, Any]]:
    """The scores of each layer, from the batches of both splits."""
    means = {split: layers.means(batches[split]) for split in SPLITS}
    return [
        {"layer": number, **score_by_folds(train, chosen.labels["train"], val, chosen.labels["val"], params)}
        for number, (train, val) in enumerate(zip(means["train"], means["val"], strict=True))
    ]


def probe_bags(
    counted: dict[str, np.ndarray], vectors_KD: np.ndarray, chosen: Chosen, params: LayerProbe
) -> dict[str, float]:
    """Accuracy from the share of each code, float [M, K], and from the mean code vector."""
    inputs = {"bag": counted, "vectors": {split: counted[split] @ vectors_KD for split in SPLITS}}
    found = {}
    for name, own in inputs.items():
        scores = score_by_folds(own["train"], chosen.labels["train"], own["val"], chosen.labels["val"], params)
        found |= {key.replace("accuracy", name): value for key, value in scores.items() if key != "held_out"}
    return found


def protocol(source: Path, chosen: Chosen, params: LayerProbe) -> list[dict[str, Any]]:
    """How the metrics were measured."""
    return [{
        "of": "layer_probe",
        "reference": "val",
        "reference_digest": artifact.images_digest(source),
        "feature": FEATURE,
        "classifier": "logistic regression, penalty relative to the mean variance",
        "train_images": len(chosen.index["train"]),
        "val_images": len(chosen.index["val"]),
        **params.model_dump(),
        **classes_probed(chosen.labels["train"], chosen.labels["val"]),
    }]  # fmt: skip


def write(
    report: Path, head: dict[str, Any], layers: dict[str, list[dict[str, Any]]], protocol: list[dict[str, Any]]
) -> None:
    """Write metrics.json and print a line per network."""
    best = {name: summary(rows) for name, rows in layers.items()}
    for name, rows in layers.items():
        shown = ", ".join(f"{row['accuracy']:.3f}" for row in rows)
        print(f"layer_probe: {name}: layers 0 to {len(rows) - 1}: {shown}; best on train: {best[name]['best_layer']}")
    write_metrics(report, {**head, **best, "layers": layers, "protocol": protocol})
