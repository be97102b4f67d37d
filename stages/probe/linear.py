"""What are the encoder's features worth? Linear classifiers on them, on raw pixels and on its random twin.

Run:    dvc repro probe
Expect: digits: 20 s on two cores.

The clean probe alone is saturated where raw pixels reach it; `moved` val images (a random affine map each) and few
labels tell features apart. Figures are accuracies on val, from 0 to 1; _std is between draws of the labelled images.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.core import artefact, runtime
from stages.core.augment import Affine, own_maps, warp
from stages.core.choice import choose
from stages.core.params import Machine, Section, impossible, load
from stages.data.reader import ImageSplit, image_facts
from stages.encoder.blocks import block_number

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.encoder.model import Encoder

SHOWN = 16


class Params(Section):
    block: int
    final_norm: bool
    raw_px: int = Field(gt=0)
    max_images: int = Field(gt=1)
    moved: Affine
    few_labels: int = Field(gt=0)
    few_draws: int = Field(ge=2)
    inverse_regularisation: float = Field(gt=0)
    seed: int = Field(ge=0, lt=2**32)


def probe(images: Path, encoder: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write metrics.json and moved.png to the folder `report`."""
    from stages.core.device import pick_device
    from stages.core.figures import write_figures
    from stages.core.readout import told_apart
    from stages.encoder.model import load_encoder, random_twin

    block_number("probe.block", params.block, artefact.read_config(encoder, "encoder")["depth"])
    train, val = (ImageSplit(images, split, machine.num_workers) for split in ("train", "val"))
    chosen = {
        name: choose(len(split), params.max_images, params.seed) for name, split in (("train", train), ("val", val))
    }
    labels = train.labels[chosen["train"]], val.labels[chosen["val"]]
    with_classes = told_apart(*labels)
    few = few_label_draws(labels[0], params) if with_classes else []
    show_moved(report / "moved.png", val, params)
    if not with_classes:
        write_figures(report, {"skipped": "no classes"})
        return
    device = pick_device(machine.device)
    networks = {"raw": None, "random_twin": random_twin(encoder, params.seed, device)}
    networks["encoder"] = load_encoder(encoder, device)
    figures = {}
    for name, network in networks.items():
        see = partial(describe, network=network, params=params, machine=machine)
        tests = {key: see(val, chosen["val"], moved=key == "moved") for key in ("clean", "moved")}
        figures[name] = accuracies(see(train, chosen["train"], moved=False), tests, *labels, few, params)
        print(f"probe: {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures[name].items()))
    write_figures(report, {**figures, "protocol": [protocol(images, encoder, chosen, params)]})


def moved_maps(index: np.ndarray, params: Params) -> Tensor:
    """float [B, 2, 3]: the random map of each val image, a function of its number alone."""
    from stages.core.rng import seed_of

    return own_maps([seed_of("probe", params.seed, int(i)) for i in index], params.moved)


def describe(
    source: ImageSplit, index: np.ndarray, network: Encoder | None, params: Params, machine: Machine, *, moved: bool
) -> np.ndarray:
    """float32 [M, D]: the numbered images as the mean over the network's patches, or without a network as pixels."""
    import torch

    from stages.core.pictures import thumbnails
    from stages.core.pixels import to_float

    device, rows = "cpu" if network is None else next(network.parameters()).device, []
    for start in range(0, len(index), machine.infer_batch_size):
        batch = index[start : start + machine.infer_batch_size]
        pixels = to_float(source.read(batch), device)
        pixels = warp(pixels, moved_maps(batch, params)) if moved else pixels
        with torch.inference_mode():
            rows.append(thumbnails(pixels, params.raw_px) if network is None else pooled(network, pixels, params).cpu())
    return torch.cat(rows).numpy()


def pooled(network: Encoder, pixels: Tensor, params: Params) -> Tensor:
    """float32 [B, D]: mean over patches."""
    block = block_number("probe.block", params.block, network.config["depth"])
    return network(pixels, blocks=[block], final_norm=params.final_norm)[0].mean(1)


def accuracies(
    train: np.ndarray,
    tests: dict[str, np.ndarray],
    train_labels: np.ndarray,
    val_labels: np.ndarray,
    few: list[np.ndarray],
    params: Params,
) -> dict[str, float]:
    """{clean, moved}: trained on all of `train`; few_*: on each choice in `few`, mean and deviation over them."""
    import numpy as np

    from stages.core.readout import fit_classifier

    strength = params.inverse_regularisation
    full = fit_classifier(train, train_labels, strength)
    figures = {key: float((full(rows) == val_labels).mean()) for key, rows in tests.items()}
    fitted = [fit_classifier(train[draw], train_labels[draw], strength) for draw in few]
    for key, rows in tests.items():
        scores = [float((one(rows) == val_labels).mean()) for one in fitted]
        figures |= {f"few_{key}": float(np.mean(scores)), f"few_{key}_std": float(np.std(scores, ddof=1))}
    return figures


def few_label_draws(labels: np.ndarray, params: Params) -> list[np.ndarray]:
    """few_draws seeded choices of few_labels images of every class; a smaller class is an error."""
    import numpy as np

    members = {int(one): np.flatnonzero(labels == one) for one in np.unique(labels)}
    smallest = min(members, key=lambda one: len(members[one]))
    if len(members[smallest]) < params.few_labels:
        among = f"among the {len(labels):,} train images used (probe.max_images)"
        allowed = f"class {smallest} has {len(members[smallest])} {among}"
        raise impossible("probe.few_labels", params.few_labels, allowed)
    rng = np.random.default_rng(params.seed)
    return [
        np.concatenate([rng.choice(own, params.few_labels, replace=False) for own in members.values()])
        for _ in range(params.few_draws)
    ]


def protocol(images: Path, encoder: Path, chosen: dict[str, np.ndarray], params: Params) -> dict[str, Any]:
    """How the figures were made."""
    weights = artefact.read_config(encoder, "encoder")["files"]["model.safetensors"]
    facts = {"of": "probe", "reference": "val", "reference_digest": artefact.digest(images)[:12]}
    facts |= {
        "img_px": image_facts(images)["img_px"],
        "classifier": "logistic regression, penalty relative to the mean variance",
    }
    counts = {"train_images": len(chosen["train"]), "val_images": len(chosen["val"])}
    return {**facts, **counts, "encoder_sha256": weights, **params.model_dump()}


def show_moved(path: Path, val: ImageSplit, params: Params) -> None:
    """Val images above their moved versions."""
    import numpy as np

    from stages.core.pictures import enlarge, grid, save_png
    from stages.core.pixels import to_float, to_uint8

    index = choose(len(val), params.max_images, params.seed)[:SHOWN]
    images = val.read(index)
    moved = to_uint8(warp(to_float(images), moved_maps(index, params)))
    save_png(path, grid(np.concatenate([images, moved]), len(index), enlarge(val.img_px)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and moved.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("probe", Params, args.params), load("machine", Machine, args.params)
    probe(args.images, args.encoder, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
