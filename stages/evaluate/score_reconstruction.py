"""Metrics of val images after tokenizer and decoder, beside those of the val images themselves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import linspace_indices, rank
from stages.core.hardware import pick_device, process_group
from stages.core.metrics import bootstrap_std, mean_and_std, psnr, usage
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit
from stages.decoder.decoder import Decoder, check_codes_of, load_decoder
from stages.evaluate import pictures
from stages.evaluate.evaluator import Evaluator, decode, open_evaluator, print_singular, print_summary
from stages.evaluate.frechet import fid
from stages.evaluate.image_features import ImageFeatures, exchange
from stages.evaluate.metrics import ssim
from stages.evaluate.neighbors import distance_metrics
from stages.evaluate.params import Inputs, ReconstructionParams
from stages.evaluate.reference import TYPE as REFERENCE_TYPE
from stages.evaluate.reference import peak_bytes


def score_tokenizer(
    inputs: Inputs, codebook: Path, report: Path, params: ReconstructionParams, machine: Machine
) -> None:
    """Write metrics.json and pictures/reconstructions.png to the folder `report`.

    Every process of a torchrun reconstructs its share of the images.
    """
    check_codes_of(inputs.decoder, codebook)
    artifact.check_made_from(codebook, f"codebook@{codebook.name}", images=inputs.images, encoder=inputs.encoder)
    _print_cost_estimate(inputs.reference, report)
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(codebook, device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    evaluator = open_evaluator(inputs, machine, device)
    val = ImageSplit(inputs.images, "val", machine.num_workers)
    with process_group():
        made = reconstruct(val, tokenizer, decoder, evaluator, params.seed)
    if rank() > 0:
        return
    results = {
        "images": artifact.images_digest(inputs.images),
        "tokenizer": tokenizer_facts(tokenizer),
        "val": score_originals(val.labels, evaluator, params),
        "reconstruction": score_reconstructions(made, val.labels, tokenizer.num_codes, evaluator, params),
    }
    shown = val.read(linspace_indices(len(val), pictures.PAIRS))
    decoded = decode(decoder, tokenizer.encode(shown), params.seed)
    pictures.save_reconstructions(report / "pictures" / "reconstructions.png", shown, decoded)
    decoding = {"decoding_precision": params.decoding_precision}
    protocol = [
        evaluator.describe("val", "train", val.labels, seed=params.seed),
        evaluator.describe("reconstruction", "val", val.labels, seed=params.seed, **decoding),
    ]
    write_metrics(report, {**results, "protocol": protocol})
    print_singular("reconstruction", protocol[1:])
    print_summary("reconstruction", results)


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What metrics.json says about the tokenizer; `codes` is their number per image."""
    facts = {key: tokenizer.config[key] for key in ("name", "kind", "num_codes", "dim")}
    return {**facts, "codes": tokenizer.num_patches}


def score_originals(labels: np.ndarray, evaluator: Evaluator, params: ReconstructionParams) -> dict[str, Any]:
    """Metrics of the real val images."""
    reference = evaluator.reference
    neighbors = {name: distance_metrics(found, found) for name, found in reference.val_distances.items()}
    return {**class_accuracy(reference.val, labels, evaluator, params), "neighbors": neighbors}


@dataclass(frozen=True)
class Reconstructions:
    """Of M val images: features, codes int64 [M, N], PSNR in dB [M], SSIM [M]."""

    features: ImageFeatures
    codes: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray


def reconstruct(
    val: ImageSplit, tokenizer: Tokenizer, decoder: Decoder, evaluator: Evaluator, seed: int
) -> Reconstructions:
    """All val images through tokenizer and decoder."""
    found: dict[str, np.ndarray] = {}

    def reconstructed(batch: range) -> np.ndarray:
        images = val.read(batch)
        codes = tokenizer.encode(images)
        decoded = decode(decoder, codes, seed)
        measured = {"codes": codes, "psnr_db": psnr(images, decoded), "ssim": ssim(images, decoded)}
        for name, rows in measured.items():
            whole = found.setdefault(name, np.empty((len(val), *rows.shape[1:]), rows.dtype))
            whole[batch.start : batch.stop] = rows
        return decoded

    features = evaluator.extract_all(len(val), reconstructed)
    exchange([torch.from_numpy(rows) for rows in found.values()], len(val), evaluator.batch_size)
    return Reconstructions(features, **found)


def score_reconstructions(
    made: Reconstructions, labels: np.ndarray, num_codes: int, evaluator: Evaluator, params: ReconstructionParams
) -> dict[str, Any]:
    """Metrics of the reconstructed val images."""
    draws, seed = params.bootstrap_draws, params.seed
    return {
        **class_accuracy(made.features, labels, evaluator, params),
        **mean_and_std("psnr_db", made.psnr_db, draws, seed),
        **mean_and_std("ssim", made.ssim, draws, seed),
        **rfid(made.features, evaluator.reference.val, params),
        "code_usage": code_usage(made.codes, num_codes, params),
        "neighbors": evaluator.neighbor_metrics(made.features),
    }


def class_accuracy(
    images: ImageFeatures, labels: np.ndarray, evaluator: Evaluator, params: ReconstructionParams
) -> dict[str, Any]:
    """Share of images in which the classifier predicts their class, or why there is none."""
    if not evaluator.can_classify(labels):
        return {"class_accuracy_skipped": "no classes"}
    return mean_and_std("class_accuracy", images.classified_as(labels), params.bootstrap_draws, params.seed)


def rfid(made: ImageFeatures, originals: ImageFeatures, params: ReconstructionParams) -> dict[str, float]:
    """FID per extractor; the reference is the same crops before tokenization.

    No KID: its estimator is unbiased for independent sets only, and these are pairs.
    """
    metrics = {}
    for name, features in made.features.items():
        real, draws = originals.features[name], params.bootstrap_draws
        std = bootstrap_std(lambda index, a=features, b=real: fid(a, b, index), len(features), draws, params.seed)
        metrics |= {f"rfid[{name}]": fid(features, real), f"rfid[{name}]_std": std}
    return metrics


def code_usage(codes: np.ndarray, num_codes: int, params: ReconstructionParams) -> dict[str, float]:
    """Usage by codes [M, N] of M images, and the entropy's bootstrap standard deviation over images."""

    def used(index: np.ndarray) -> dict[str, float]:
        return usage(np.bincount(codes[index].ravel(), minlength=num_codes))

    draws, seed = params.bootstrap_draws, params.seed
    std = bootstrap_std(lambda index: used(index)["entropy_nats"], len(codes), draws, seed)
    return {**used(np.arange(len(codes))), "entropy_nats_std": std}


def _print_cost_estimate(reference: Path, report: Path) -> None:
    config = artifact.read_config(reference, REFERENCE_TYPE)
    counts = {"train images to compare with": config["count"], "val images": config["val_count"]}
    dim = sum(facts["dim"] for facts in config["extractors"].values())
    memory_bytes = peak_bytes(max(counts.values()), dim, config["pixel_px"])
    print_cost_estimate("reconstruction", report, counts, disk_bytes=20 * 10**6, memory_bytes=memory_bytes)
