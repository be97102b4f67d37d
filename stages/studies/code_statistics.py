"""Statistics of a tokenizer's codes: usage, linear probes of class and color, decoding by a lookup table of patches.

Class and color are each predicted from three inputs: codes alone (`bag`, how often each code occurs in an image;
`one_hot`, the code of a patch), `vectors` (the codes' vectors) and `features` (before quantization, the most that the
vectors could have kept).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.metrics import bags, bootstrap_std, count_codes, mean_and_std, usage
from stages.core.params import Machine
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit, image_facts
from stages.studies.code_gallery import save_gallery
from stages.studies.code_map import save_map
from stages.studies.code_survey import Batch, Survey, survey
from stages.studies.linear_probe import LinearMap, class_hits, has_classes
from stages.studies.params import CodeAnalysis
from stages.studies.patches import PatchTable, lookup_psnr, patch_side
from stages.studies.retrieval import retrieval
from stages.studies.tsne import FeatureSubset, lay_out, save_tsne


@dataclass(frozen=True)
class Inputs:
    """Folders of an images and a codebook artifact."""

    images: Path
    codebook: Path


def analyze(inputs: Inputs, report: Path, params: CodeAnalysis, machine: Machine) -> None:
    """Write metrics.json, gallery.png, tsne.png and map/ to the folder `report`."""
    artifact.check_made_from(inputs.codebook, f"codebook@{inputs.codebook.name}", images=inputs.images)
    splits = {name: ImageSplit(inputs.images, name, machine.num_workers) for name in ("train", "val")}
    chosen = {name: random_subset(len(split), params.max_images, params.seed) for name, split in splits.items()}
    patch_px, subset = check(inputs.codebook, splits["val"], chosen["val"], params)
    tokenizer, size = load_tokenizer(inputs.codebook, pick_device(machine.device)), machine.infer_batch_size
    vectors = tokenizer.vectors(np.arange(tokenizer.num_codes)).cpu().numpy()
    table, probe = PatchTable(tokenizer.num_codes, patch_px), ColorProbe(vectors)
    learn = [lambda batch: table.add(batch.codes, batch.patches), probe.learn]
    train = survey(splits["train"], chosen["train"], tokenizer, size, learn)
    probe.solve(params.ridge, table)
    lookup = Lookup(table.pictures(), table.mean().round().astype(np.uint8)[None])
    test = [probe.test, lookup.test, subset.collect]
    val = survey(splits["val"], chosen["val"], tokenizer, size, test)
    metrics: dict[str, Any] = {
        "usage": usage(count_codes(val.codes, len(vectors))),
        "class": class_metrics(train, val, vectors, params),
        "retrieval": retrieval(train, val, len(vectors), params.bootstrap_draws, params.seed),
        "color": probe.metrics(params.bootstrap_draws, params.seed),
        "lookup": lookup.metrics(params.bootstrap_draws, params.seed),
    }
    if why := subset.obstacle():
        metrics["tsne"] = {"skipped": why}
    print_metrics(metrics)
    metrics |= {"images": artifact.images_digest(inputs.images)}
    write_metrics(report, {**metrics, "protocol": protocol(inputs.images, tokenizer, chosen, params)})
    save_gallery(report / "gallery.png", splits["train"], train, lookup.table, tokenizer.grid, params)
    layout = lay_out(subset, train, vectors, params)
    save_tsne(report / "tsne.png", subset, layout, train, len(vectors), splits["train"].classes)
    save_map(report / "map", splits["train"], train, lookup.table, tokenizer.grid, layout, params)


def check(
    codebook: Path, val: ImageSplit, chosen: np.ndarray, params: CodeAnalysis
) -> tuple[int, FeatureSubset]:  # fmt: skip
    """Side of a patch in px and the features for t-SNE; settings that the data forbid are errors before any reading."""
    config = artifact.read_config(codebook, "codebook")
    subset = FeatureSubset(val.labels[chosen], config["num_patches"], params.tsne, params.seed)
    return patch_side(val.img_px, config["grid"]), subset


def print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    """One line for each group."""
    for group, found in metrics.items():
        cells = [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                 for name, value in found.items() if not name.endswith("_std")]  # fmt: skip
        print(f"code_analysis: {group}: " + ", ".join(cells))


def class_metrics(
    train: Survey, val: Survey, vectors_KD: np.ndarray, params: CodeAnalysis
) -> dict[str, float | str]:  # fmt: skip
    """Accuracy on val of logistic regressions on an image's bag of codes, mean code vector and mean feature."""
    if not has_classes(train.labels, val.labels):
        return {"skipped": "no classes"}
    counted = [bags(one.codes, len(vectors_KD)) for one in (train, val)]
    inputs = {
        "bag": counted,
        "vectors": [bag @ vectors_KD for bag in counted],
        "features": [train.mean_features, val.mean_features],
    }
    found: dict[str, float | str] = {}
    for name, (known, asked) in inputs.items():
        hits = class_hits(known, train.labels, asked, val.labels, params.inverse_regularization)
        found |= mean_and_std(name, hits, params.bootstrap_draws, params.seed)
    return found


class ColorProbe:
    """Ridge regressions of a patch's mean red, green and blue: fitted on train batches, tested on val batches."""

    def __init__(self, vectors_KD: np.ndarray):
        self.vectors = vectors_KD
        dim = vectors_KD.shape[1]
        self.maps = {"vectors": LinearMap(dim, 3), "features": LinearMap(dim, 3)}
        self.solved: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.errors: dict[str, list[np.ndarray]] = {"one_hot": [], "vectors": [], "features": []}
        self.colors: list[np.ndarray] = []

    def learn(self, batch: Batch) -> None:
        """Add a batch to the regressions' sums."""
        colors = batch.colors.reshape(-1, 3)
        self.maps["vectors"].add(self.vectors[batch.codes.ravel()], colors)
        self.maps["features"].add(batch.features.reshape(-1, batch.features.shape[-1]), colors)

    def solve(self, ridge: float, table: PatchTable) -> None:
        """Solve the regressions; the prediction from a code alone is the color of its mean patch."""
        self.solved = {name: one.solve(ridge) for name, one in self.maps.items()}
        self.code_colors = table.means().mean((1, 2)) / 255

    def test(self, batch: Batch) -> None:
        """Add the squared error of each image of a batch."""
        colors = batch.colors
        inputs = {"vectors": self.vectors[batch.codes], "features": batch.features}
        predicted = {"one_hot": self.code_colors[batch.codes]}
        predicted |= {name: inputs[name] @ weights + bias for name, (weights, bias) in self.solved.items()}
        for name, found in predicted.items():
            self.errors[name].append(((found - colors) ** 2).sum((1, 2)))
        self.colors.append(colors)

    def metrics(self, draws: int, seed: int) -> dict[str, float | str]:
        """R² over all positions and the three colors together: 1 - squared error / deviation from val's mean color.

        _std by bootstrap over images. Skipped where all of val has one color.
        """
        colors = np.concatenate(self.colors)
        deviation = ((colors - colors.mean((0, 1))) ** 2).sum((1, 2))
        if deviation.sum() < 1e-12 * colors.size:
            return {"skipped": "all patches have one color"}
        found: dict[str, float | str] = {}
        for name, batches in self.errors.items():
            error = np.concatenate(batches)
            std = bootstrap_std(lambda i, e=error: explained_share(e[i], deviation[i]), len(error), draws, seed)
            found |= {name: explained_share(error, deviation), f"{name}_std": std}
        return found


def explained_share(error: np.ndarray, deviation: np.ndarray) -> float:
    """R² from squared errors and squared deviations per image; 0 where a resampling has no deviation."""
    total = float(deviation.sum())
    return 1 - float(error.sum()) / total if total else 0.0


class Lookup:
    """PSNR of val images decoded with a table of one patch per code, beside one mean patch for all codes."""

    def __init__(self, table: np.ndarray, mean_patch: np.ndarray):
        self.table, self.mean_patch = table, mean_patch
        self.found: dict[str, list[np.ndarray]] = {"psnr_db": [], "one_patch_psnr_db": []}

    def test(self, batch: Batch) -> None:
        """Add the PSNR of each image of a batch."""
        self.found["psnr_db"].append(lookup_psnr(self.table, batch.codes, batch.patches))
        self.found["one_patch_psnr_db"].append(lookup_psnr(self.mean_patch, batch.codes * 0, batch.patches))

    def metrics(self, draws: int, seed: int) -> dict[str, float]:
        """Means over images, with their deviations."""
        parts = [mean_and_std(name, np.concatenate(found), draws, seed) for name, found in self.found.items()]
        return {key: value for part in parts for key, value in part.items()}


def protocol(
    images: Path, tokenizer: Tokenizer, chosen: dict[str, np.ndarray], params: CodeAnalysis
) -> list[dict[str, Any]]:
    """How the metrics were measured, without the settings of the pictures."""
    return [{
        "of": "code_analysis",
        "reference": "val",
        "reference_digest": artifact.digest(images)[:12],
        "img_px": image_facts(images)["img_px"],
        "grid": tokenizer.grid,
        "train_images": len(chosen["train"]),
        "val_images": len(chosen["val"]),
        "class": "logistic regression, penalty relative to the mean variance",
        "retrieval": "of train images",
        "color": "ridge regression",
        **params.model_dump(exclude={"gallery", "tsne"}),
    }]  # fmt: skip
