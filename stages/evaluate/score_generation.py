"""Metrics of generated samples, each a mean over seeds with the standard deviation between them, and of real images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.distributed import linspace_indices, random_subset, rank, share_out
from stages.core.hardware import pick_device, process_group
from stages.core.metrics import count_classes, usage
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import PAPER, write_metrics
from stages.data.reader import ImageSplit
from stages.decoder.decoder import Decoder, load_decoder
from stages.evaluate import pictures
from stages.evaluate.evaluator import Evaluator, decode, open_evaluator, print_singular, print_summary
from stages.evaluate.fid_spread import extrapolated
from stages.evaluate.image_features import ImageFeatures
from stages.evaluate.neighbors import nearest, points
from stages.evaluate.params import GenerationParams, Inputs
from stages.evaluate.reference import TYPE as REFERENCE_TYPE
from stages.evaluate.reference import peak_bytes
from stages.evaluate.samples import Samples, open_samples, tokenizer_facts
from stages.evaluate.set_scores import describe, fid_stds, fids_by_count, set_metrics, skipped


def score_generators(
    inputs: Inputs, folder: Path, generators: list[str], report: Path, params: GenerationParams, machine: Machine
) -> None:
    """Write metrics.json and pictures/ to the folder `report`; `folder` holds a samples artifact per generator.

    Every process of a torchrun decodes its share of the samples; the first one measures them.
    """
    samples = open_samples(inputs, folder, generators)
    print_estimate(inputs.reference, samples, report)
    device = pick_device(machine.device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    evaluator = open_evaluator(inputs, machine, device)
    with process_group():
        per_seed = {name: score_seeds(drawn, decoder, evaluator, params) for name, drawn in samples.items()}
    if rank() > 0:
        return
    splits = {name: ImageSplit(inputs.images, name, machine.num_workers) for name in ("train", "val")}
    tokenizer = tokenizer_facts(inputs.decoder)
    results: dict[str, Any] = {"images": artifact.images_digest(inputs.images), "tokenizer": tokenizer}
    protocol = []
    results["val"], entry = score_val(splits["val"].labels, list(samples.values()), evaluator, params)
    protocol += [entry] if entry else []
    for name, drawn in samples.items():
        results[name] = score_samples(drawn, per_seed[name], tokenizer["num_codes"], evaluator, params)
        how = {"labels_drawn": drawn.config["labels"], "sampler": drawn.config["sampling"], "seeds": drawn.seeds}
        how["decoding_precision"] = params.decoding_precision
        protocol.append(describe(name, drawn.labels, evaluator, params, **how))
        save_pictures(report / "pictures", name, drawn, decoder, evaluator, splits["train"], params.neighbors_shown)
    write_metrics(report, {**results, "protocol": protocol})
    print_singular("generation", protocol)
    print_summary("generation", results)


@dataclass(frozen=True)
class SeedScores:
    """Of the samples of one seed: metrics, distances to their nearest train images, FID by number of samples."""

    metrics: dict[str, float]
    neighbors: dict[str, dict[str, float]]
    by_count: dict[str, dict[int, float]]


def score_seeds(samples: Samples, decoder: Decoder, evaluator: Evaluator, params: GenerationParams) -> list[SeedScores]:
    """The scores of each seed; empty in all processes but the first."""
    found = []
    for seed, codes in zip(samples.seeds, samples.codes, strict=True):
        images = evaluator.extract_all(
            len(codes), lambda batch, codes=codes, seed=seed: decode(decoder, codes[batch.start : batch.stop], seed)
        )
        if rank() == 0:
            neighbors = evaluator.neighbor_metrics(images)
            near = {f"near_copies[{name}]": one["near_copies"] for name, one in neighbors.items()}
            measured = {**set_metrics(images, samples.labels, evaluator, params), **near}
            by_count = fids_by_count(images, measured, evaluator, params)
            measured |= {f"gfid_infinity[{name}]": extrapolated(one) for name, one in by_count.items()}
            if len(samples.seeds) == 1:
                measured |= fid_stds(images, evaluator, params)
            found.append(SeedScores(measured, neighbors, by_count))
    return found


def score_samples(
    samples: Samples, per_seed: list[SeedScores], num_codes: int, evaluator: Evaluator, params: GenerationParams
) -> dict[str, Any]:
    """The metrics of one generator."""
    return {
        **over_seeds([one.metrics for one in per_seed]),
        **skipped(samples.labels, evaluator, params),
        **mean_by_count([one.by_count for one in per_seed]),
        "likelihood": samples.config["generator"]["likelihood"],
        "code_usage": usage(np.bincount(samples.codes.ravel(), minlength=num_codes)),
        "neighbors": per_seed[0].neighbors,
    }


def mean_by_count(per_seed: list[dict[str, dict[int, float]]]) -> dict[str, Any]:
    """{"gfid_by_count": {extractor: {number of samples: mean FID over the seeds}}}."""
    found = {
        name: {str(count): float(np.mean([seed[name][count] for seed in per_seed])) for count in per_seed[0][name]}
        for name in per_seed[0]
    }
    return {"gfid_by_count": found} if found else {}


def score_val(
    val_labels: np.ndarray, samples: list[Samples], evaluator: Evaluator, params: GenerationParams
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The metrics of real val images in place of samples, and their protocol: what perfect samples would score."""
    if evaluator.reference.compared.name == "val":
        return {"skipped": "samples are compared with these images"}, None
    most = max(samples, key=lambda drawn: len(drawn.labels))
    chosen = as_samples(val_labels, most.labels, params.seed)
    if len(chosen) < 2:
        return {"skipped": f"{len(chosen)} val images in the samples' proportions of the classes: 2 are needed"}, None
    missing = np.setdiff1d(most.labels, val_labels[chosen])
    how = "val images, none twice, in the samples' proportions"
    how += f"; without {len(missing)} of the samples' classes" if len(missing) else ""
    labels = val_labels[chosen]
    entry = describe("val", labels, evaluator, params, labels_drawn=most.config["labels"], sampler=how)
    return score_real(evaluator.reference.val.subset(chosen), labels, evaluator, params), entry


def as_samples(val_labels: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """int64 [M], sorted: numbers of val images, drawn as samples with `labels` int64 [num] are.

    Their classes have the samples' proportions, so that FID differs by what the images show alone. No image comes
    twice, since copies have less spread, and none is of train, since the reference and the classifier have seen those.
    So M is what the scarcest class permits, at most num; a class without val images is left out.
    """
    if min(labels.min(), val_labels.min()) < 0:
        return random_subset(len(val_labels), len(labels), seed)
    classes = 1 + max(labels.max(), val_labels.max())
    there = count_classes(val_labels, classes)
    wanted = np.where(there > 0, count_classes(labels, classes), 0)
    if not wanted.any():
        return np.arange(0)
    asked = wanted > 0
    most = min(len(labels), int(((there[asked] + 1) * wanted.sum() // wanted[asked]).min()))
    shares = next(found for count in range(most, -1, -1) if ((found := share_out(count, wanted)) <= there).all())
    members = (np.flatnonzero(val_labels == one) for one in range(classes))
    drawn = [own[random_subset(len(own), share, seed)] for own, share in zip(members, shares.tolist(), strict=True)]
    return np.sort(np.concatenate(drawn))


def score_real(
    real: ImageFeatures, labels: np.ndarray, evaluator: Evaluator, params: GenerationParams
) -> dict[str, Any]:
    """The metrics of one set of real images, so without spread."""
    found = {"images": len(real), **set_metrics(real, labels, evaluator, params)}
    return {**found, **fid_stds(real, evaluator, params), **skipped(labels, evaluator, params)}


def over_seeds(per_seed: list[dict[str, float]]) -> dict[str, float]:
    """name: mean, name_std: standard deviation; the latter from two seeds on."""
    found = {}
    for name in per_seed[0]:
        values = [one[name] for one in per_seed]
        found[name] = float(np.mean(values))
        if len(values) > 1:
            found[f"{name}_std"] = float(np.std(values, ddof=1))
    return found


def save_pictures(
    folder: Path, name: str, samples: Samples, decoder: Decoder, evaluator: Evaluator, train: ImageSplit, shown: int
) -> None:
    """Samples of the first seed by class; `shown` of them above their nearest train images, by pixels and features.

    <name>.json says what each picture shows, sample by sample.
    """
    chosen, columns = pictures.choose_samples(samples.labels)
    images = decode(decoder, samples.codes[0][chosen], samples.seeds[0])
    images = np.where((chosen >= 0)[:, None, None, None], images, np.uint8(PAPER))
    pictures.save_grid(folder / f"samples-{name}.png", images, columns)
    below = linspace_indices(len(samples.labels), shown)
    images = decode(decoder, samples.codes[0][below], samples.seeds[0])
    reference, rows = points(evaluator.reference.train), [images]
    for distance, found in points(evaluator.extract(images)).items():
        index = nearest(found, reference[distance])[1]
        rows.append(train.read(evaluator.reference.index[index]))
    pictures.save_grid(folder / f"neighbors-{name}.png", np.concatenate(rows), len(images))
    asked = {"samples": chosen, "neighbors": below}
    said = {of: [samples.asked_for(one) for one in numbers.tolist()] for of, numbers in asked.items()}
    pictures.save_facts(folder / f"{name}.json", {"img_px": train.img_px, "columns": columns, **said})


def print_estimate(reference: Path, samples: dict[str, Samples], report: Path) -> None:
    """Counts, disk and memory."""
    config = artifact.read_config(reference, REFERENCE_TYPE)
    counts = {"train images to compare with": config["count"], "val images": config["val_count"]}
    most = max(*counts.values(), *(len(drawn.labels) for drawn in samples.values()))
    dim = sum(facts["dim"] for facts in config["extractors"].values())
    counts |= {"samples": sum(drawn.codes.shape[0] * drawn.codes.shape[1] for drawn in samples.values())}
    memory_bytes = peak_bytes(most, dim, config["pixel_px"])
    print_cost_estimate("generation", report, counts, disk_bytes=20 * 10**6, memory_bytes=memory_bytes)
