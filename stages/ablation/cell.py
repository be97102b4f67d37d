"""One cell of codebook size x dimension: k-means of principal components of the stored features, and what it keeps.

Run:    dvc repro ablation                (one cell: dvc repro ablation@256-8)
Expect: digits: 10 s a cell on two cores, six cells; a kilobyte each.

Figures are those of val: usage, the share of the features' variance that is lost, accuracy of a linear classifier on
the bag of codes, PSNR of each patch painted as the mean train patch of its code. _std by bootstrap over images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from stages.core import artefact, runtime
from stages.core.artefact import read_config
from stages.core.choice import choose
from stages.core.params import Machine, Section, impossible, load
from stages.core.patches import patch_side
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import numpy as np


class Cell(Section):
    max_images: int = Field(gt=1)
    max_vectors: int = Field(ge=0)
    iterations: int = Field(gt=0)
    inverse_regularisation: float = Field(gt=0)
    bootstrap_draws: int = Field(ge=2)
    seed: int = Field(ge=0, lt=2**31)


class Params(Section):
    """The whole section; the two lists are dvc.yaml's matrix, a cell reads `cell` alone."""

    num_codes: list[int] = Field(min_length=1)
    dims: list[int] = Field(min_length=1)
    cell: Cell

    @model_validator(mode="after")
    def lists_make_cells(self) -> Params:
        for key, values, least in (("num_codes", self.num_codes, 1), ("dims", self.dims, 0)):
            if min(values) < least or len(set(values)) < len(values):
                raise ValueError(f"{key} = {values}: expected different numbers from {least} up")
        return self


def study(
    images: Path, features: Path, report: Path, num_codes: int, dim: int, params: Cell, machine: Machine
) -> None:  # fmt: skip
    """Write metrics.json of one cell to the folder `report`."""
    from stages.ablation.clusters import errors, fit_index, fit_pca, quantise
    from stages.core.codes import count_codes
    from stages.core.figures import write_figures
    from stages.core.usage import usage
    from stages.features.reader import FeatureSplit

    chosen = check(images, features, num_codes, dim, params)
    announce(features, report, chosen, machine)
    splits = {split: FeatureSplit(features, split) for split in chosen}
    keys = {split: splits[split].keys(index) for split, index in chosen.items()}
    rows = {split: splits[split].read(index).astype("float32") for split, index in chosen.items()}
    flat = rows["train"].reshape(-1, rows["train"].shape[-1])
    pca = fit_pca(flat, dim)
    sample = flat[choose(len(flat), params.max_vectors or len(flat), params.seed)]
    index = fit_index(pca.project(sample), num_codes, params.iterations, params.seed, machine.device != "cpu")
    codes, squared = {}, {}
    for split in rows:
        codes[split], squared[split] = quantise(index, pca.project(rows[split]))
    figures: dict[str, Any] = {
        "num_codes": num_codes, "dim": pca.axes.shape[1],
        "usage": usage(count_codes(codes["val"], num_codes)),
        "features": errors(rows["val"], pca, squared["val"]),
        **read_out(images, keys, codes, num_codes, params, machine),
    }  # fmt: skip
    print("ablation: " + ", ".join(f"{name} {value:.4g}" for name, value in headline(figures).items()))
    write_figures(report, {**figures, "protocol": [protocol(images, features, chosen, len(sample), params)]})


def check(images: Path, features: Path, num_codes: int, dim: int, params: Cell) -> dict[str, np.ndarray]:
    """Which images of each split are used; more codes than vectors, or dimensions than features have, is an error."""
    config = read_config(features, "features")
    chosen = {split: choose(config["splits"][split]["images"], params.max_images, params.seed)
              for split in ("train", "val")}  # fmt: skip
    total = len(chosen["train"]) * config["num_patches"]
    used = min(total, params.max_vectors or total)
    if not 0 < num_codes <= used:
        raise impossible("ablation.num_codes", num_codes, f"expected from 1 to the {used:,} vectors to cluster")
    if not 0 <= dim <= config["dim"]:
        raise impossible("ablation.dims", dim, f"expected from 0 to the {config['dim']} dimensions of a feature")
    patch_side(image_facts(images)["img_px"], round(config["num_patches"] ** 0.5))
    return chosen


def announce(features: Path, report: Path, chosen: dict[str, np.ndarray], machine: Machine) -> None:
    """Print the plan; the features and their projection are in memory as a whole."""
    config = read_config(features, "features")
    vectors = sum(map(len, chosen.values())) * config["num_patches"]
    counts = {"images": sum(map(len, chosen.values())), "vectors": vectors}
    memory = 400 * 2**20 + vectors * config["dim"] * 12
    print_plan("ablation", report, counts, disk_bytes=4096, memory_bytes=memory)


def read_out(
    images: Path, keys: dict[str, list[str]], codes: dict[str, np.ndarray], num_codes: int, params: Cell,
    machine: Machine,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Groups `class` and `look_up`: what codes [M, N] tell of the images with these keys."""
    from stages.core.patches import PatchTable, look_up_psnr, patches
    from stages.core.readout import class_hits, told_apart
    from stages.core.scores import mean_and_std
    from stages.core.usage import bags

    def look(split: str) -> tuple[np.ndarray, np.ndarray]:
        source = ImageSplit(images, split, machine.num_workers)
        place = {key: number for number, key in enumerate(source.keys)}
        index = [place[key] for key in keys[split]]
        positions = codes[split].shape[1]
        return patches(source.read(index), round(positions**0.5), positions), source.labels[index]

    draws, seed = params.bootstrap_draws, params.seed
    (train, train_labels), (val, val_labels) = look("train"), look("val")
    table = PatchTable(num_codes, train.shape[2])
    table.add(codes["train"], train)
    found = mean_and_std("psnr_db", look_up_psnr(table.pictures(), codes["val"], val), draws, seed)
    if not told_apart(train_labels, val_labels):
        return {"class": {"skipped": "no classes"}, "look_up": found}
    counted = {split: bags(own, num_codes) for split, own in codes.items()}
    hits = class_hits(counted["train"], train_labels, counted["val"], val_labels, params.inverse_regularisation)
    return {"class": mean_and_std("bag", hits, draws, seed), "look_up": found}


def headline(figures: dict[str, Any]) -> dict[str, float]:
    """The figures that a line has room for."""
    groups = ("usage", "features", "class", "look_up")
    named = {name: value for group in groups for name, value in figures[group].items()}
    shown = {name: value for name, value in named.items() if not name.endswith(("_std", "_fraction", "skipped"))}
    return {"K": figures["num_codes"], "dim": figures["dim"], **shown}


def protocol(
    images: Path, features: Path, chosen: dict[str, np.ndarray], vectors: int, params: Cell
) -> dict[str, Any]:  # fmt: skip
    """How the figures were made."""
    config = read_config(features, "features")
    facts = {"of": "ablation", "reference": "val", "reference_digest": artefact.digest(images)[:12]}
    facts |= {"features_digest": artefact.digest(features)[:12], "block": config["block"]}
    facts |= {"img_px": image_facts(images)["img_px"], "codebook": "faiss k-means from k-means++ after PCA"}
    counts = {"train_images": len(chosen["train"]), "val_images": len(chosen["val"]), "vectors_used": vectors}
    return {**facts, **counts, "class": "logistic regression on bags of codes", **params.model_dump()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-codes", type=int, required=True, help="codebook size")
    parser.add_argument("--dim", type=int, required=True, help="principal components kept; 0: the features as they are")
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--features", type=Path, required=True, help="features artefact, of those images")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("ablation.cell", Cell, args.params), load("machine", Machine, args.params)
    study(args.images, args.features, args.report, args.num_codes, args.dim, params, machine)


if __name__ == "__main__":
    runtime.run(main)
