"""Metrics of generated samples, each a mean over seeds with the standard deviation between them, and of real images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.distributed import linspace_indices, random_subset
from stages.core.errors import UserError
from stages.core.hardware import pick_device
from stages.core.metrics import usage
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit
from stages.decoder.decoder import Decoder, check_drawn, load_decoder
from stages.evaluate import metrics, pictures
from stages.evaluate.evaluator import Evaluator, Inputs, decode, open_evaluator, print_summary
from stages.evaluate.image_features import ImageFeatures
from stages.evaluate.neighbors import nearest, points
from stages.evaluate.params import GenerationParams
from stages.evaluate.reference import TYPE as REFERENCE_TYPE
from stages.evaluate.reference import peak_bytes


@dataclass(frozen=True)
class Samples:
    """codes [seeds, num, N], labels int64 [num] (the requested class, -1 without) and the artifact's config."""

    codes: np.ndarray
    labels: np.ndarray
    config: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """One per set of codes: it was drawn, and is decoded, under that seed."""
        return self.config["seeds"]


def score_generators(
    inputs: Inputs, folder: Path, generators: list[str], report: Path, params: GenerationParams, machine: Machine
) -> None:
    """Write metrics.json and pictures/ to the folder `report`; `folder` holds a samples artifact per generator."""
    samples = check(inputs, folder, generators, params)
    print_estimate(inputs.reference, samples, report)
    device = pick_device(machine.device)
    decoder, evaluator = load_decoder(inputs.decoder, device), open_evaluator(inputs, machine, device)
    splits = {name: ImageSplit(inputs.images, name, machine.num_workers) for name in ("train", "val")}
    tokenizer = tokenizer_facts(inputs.decoder)
    as_many = max(len(drawn.labels) for drawn in samples.values())
    chosen = random_subset(len(splits["val"]), as_many, params.seed)
    val_labels = splits["val"].labels[chosen]
    val = score_real(evaluator.reference.val.subset(chosen), val_labels, evaluator, params)
    results = {"tokenizer": tokenizer, "val": val}
    protocol = [] if "skipped" in val else [describe("val", val_labels, evaluator, params)]
    for name, drawn in samples.items():
        results[name] = score_samples(drawn, tokenizer["num_codes"], decoder, evaluator, params)
        how = {"sampler": drawn.config["sampling"], "seeds": drawn.seeds}
        protocol.append(describe(name, drawn.labels, evaluator, params, **how))
        save_pictures(report / "pictures", name, drawn, decoder, evaluator, splits["train"], params.neighbors_shown)
    write_metrics(report, {**results, "protocol": protocol})
    print_summary("generation", results)


def score_samples(
    samples: Samples, num_codes: int, decoder: Decoder, evaluator: Evaluator, params: GenerationParams
) -> dict[str, Any]:
    """The metrics of one generator."""
    per_seed: list[dict[str, float]] = []
    neighbors: list[dict[str, dict[str, float]]] = []
    for seed, codes in zip(samples.seeds, samples.codes, strict=True):
        images = evaluator.extract_all(
            len(codes), lambda batch, codes=codes, seed=seed: decode(decoder, codes[batch.start : batch.stop], seed)
        )
        neighbors.append(evaluator.neighbor_metrics(images))
        near = {f"near_copies[{name}]": found["near_copies"] for name, found in neighbors[-1].items()}
        per_seed.append({**set_metrics(images, samples.labels, evaluator, params), **near})
    return {
        **over_seeds(per_seed),
        **skipped(samples.labels, evaluator),
        "likelihood": samples.config["generator"]["likelihood"],
        "code_usage": usage(np.bincount(samples.codes.ravel(), minlength=num_codes)),
        "neighbors": neighbors[0],
    }


def score_real(
    real: ImageFeatures, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams
) -> dict[str, Any]:
    """The metrics of real val images in place of samples: what perfect samples would score. One set, no spread."""
    prc_neighbors = evaluator.reference.config["prc_neighbors"]
    least = max(params.kid_subset_size, prc_neighbors + 1, metrics.IS_SPLITS)
    if len(real) < least:
        return {"skipped": f"{len(real)} val images: {least} are needed (generation.kid_subset_size)"}
    return {"images": len(real), **set_metrics(real, labels, evaluator, params)}


def set_metrics(
    images: ImageFeatures, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams
) -> dict[str, float]:
    """The metrics of one set of images against real train images."""
    reference, neighbors, found = evaluator.reference, evaluator.reference.config["prc_neighbors"], {}
    if evaluator.can_classify(labels):
        found["class_accuracy"] = float(images.classified_as(labels).mean())
    for name, features in images.features.items():
        real, radii = reference.train.features[name], reference.knn_radii[name]
        found[f"gfid[{name}]"] = metrics.fid(features, real)
        found[f"gkid[{name}]"] = metrics.kid(features, real, params.kid_subset_size, params.seed)
        if name in images.logits:
            found[f"is[{name}]"] = metrics.inception_score(images.logits[name], params.seed)
        precision, recall = metrics.precision_recall(features, real, radii, neighbors)
        found |= {f"precision[{name}]": precision, f"recall[{name}]": recall}
    return found


def over_seeds(per_seed: list[dict[str, float]]) -> dict[str, float]:
    """name: mean, name_std: standard deviation; the latter from two seeds on."""
    found = {}
    for name in per_seed[0]:
        values = [one[name] for one in per_seed]
        found[name] = float(np.mean(values))
        if len(values) > 1:
            found[f"{name}_std"] = float(np.std(values, ddof=1))
    return found


def skipped(labels: np.ndarray, evaluator: Evaluator) -> dict[str, str]:
    """Which metrics are missing and why."""
    if "classifier" not in evaluator.extractors:
        return {"class_accuracy_skipped": "no classes", "is_skipped": "no classes to train a classifier on"}
    return {"class_accuracy_skipped": "drawn without a class"} if (labels < 0).any() else {}


def describe(of: str, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams, **how: Any) -> dict[str, Any]:
    """The protocol of one group of metrics."""
    how |= {"prc_neighbors": evaluator.reference.config["prc_neighbors"]}
    return evaluator.describe(of, "train", labels, kid_subset_size=params.kid_subset_size, seed=params.seed, **how)


def save_pictures(
    folder: Path, name: str, samples: Samples, decoder: Decoder, evaluator: Evaluator, train: ImageSplit, shown: int
) -> None:
    """Samples of the first seed by class; `shown` of them above their nearest train images, by pixels and features."""
    chosen, columns = pictures.choose_samples(samples.labels)
    images = decode(decoder, samples.codes[0][chosen], samples.seeds[0])
    pictures.save_grid(folder / f"samples-{name}.png", images, columns)
    chosen = linspace_indices(len(samples.labels), shown)
    images = decode(decoder, samples.codes[0][chosen], samples.seeds[0])
    reference, rows = points(evaluator.reference.train), [images]
    for distance, found in points(evaluator.extract(images)).items():
        index = nearest(found, reference[distance])[1]
        rows.append(train.read(evaluator.reference.index[index]))
    pictures.save_grid(folder / f"neighbors-{name}.png", np.concatenate(rows), len(images))


def load_samples(folder: Path) -> Samples:
    """The samples artifact in `folder`."""
    config = artifact.read_config(folder, "samples")
    codes, labels = (np.load(artifact.checked(folder, name)) for name in ("codes.npy", "labels.npy"))
    if codes.ndim != 3 or len(labels) != codes.shape[1]:
        shapes = f"codes {list(codes.shape)} do not fit labels {list(labels.shape)}"
        raise UserError(f"{folder}: {shapes}. Run `dvc repro samples`.")
    return Samples(codes, labels, config)


def check(inputs: Inputs, folder: Path, generators: list[str], params: GenerationParams) -> dict[str, Samples]:
    """The samples by generator; a missing artifact or a setting that the counts forbid is an error at once."""
    samples = {name: load_samples(folder / name) for name in generators}
    codes = tokenizer_facts(inputs.decoder)["codes"]
    for name, drawn in samples.items():
        check_drawn(folder / name, drawn.config, inputs.decoder)
        artifact.check_made_from(folder / name, f"samples@{folder.name}-{name}", images=inputs.images)
        if drawn.codes.shape[2] != codes:
            found = f"{drawn.codes.shape[2]} codes per image, {inputs.decoder} takes {codes}"
            raise UserError(f"{folder / name}: {found}. Run `dvc repro`.")
        if len(drawn.labels) < metrics.IS_SPLITS:
            least = f"expected at least {metrics.IS_SPLITS}, for the splits of the Inception score"
            why = f"{folder / name} has {len(drawn.labels)} samples per seed: {least}"
            raise UserError(f"params.yaml: samples.draws.per_class: {why}")
    config = artifact.read_config(inputs.reference, REFERENCE_TYPE)
    counts = {"train images compared with": config["count"]}
    counts |= {f"samples of {name} per seed": len(drawn.labels) for name, drawn in samples.items()}
    fewest = min(counts, key=lambda what: counts[what])
    settings = {"generation.kid_subset_size": (params.kid_subset_size, counts[fewest])}
    settings["reference.prc_neighbors"] = (config["prc_neighbors"], counts[fewest] - 1)
    for key, (value, most) in settings.items():
        if value > most:
            raise impossible(key, value, f"expected at most {most}: there are {counts[fewest]} {fewest}")
    return samples


def tokenizer_facts(decoder: Path) -> dict[str, Any]:
    """What a decoder's config says about its tokenizer; `codes` is their number per image."""
    config = artifact.read_config(decoder, "decoder")
    codes = config["codebooks"] * config["grid"] ** 2
    return {"name": config["tokenizer"], "num_codes": config["num_codes"], "codes": codes}


def print_estimate(reference: Path, samples: dict[str, Samples], report: Path) -> None:
    """Counts, disk and memory."""
    config = artifact.read_config(reference, REFERENCE_TYPE)
    counts = {"train images to compare with": config["count"], "val images": config["val_count"]}
    most = max(*counts.values(), *(len(drawn.labels) for drawn in samples.values()))
    dim = sum(facts["dim"] for facts in config["extractors"].values())
    counts |= {"samples": sum(drawn.codes.shape[0] * drawn.codes.shape[1] for drawn in samples.values())}
    memory_bytes = peak_bytes(most, dim, config["pixel_px"])
    print_cost_estimate("generation", report, counts, disk_bytes=20 * 10**6, memory_bytes=memory_bytes)
