"""One decoder at several numbers of decoding steps: its images of val codes, their metrics and the cost per image."""

from dataclasses import dataclass
from math import log2, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.networks import EncoderPerceptual
from stages.core.params import Machine, impossible
from stages.core.progress import LARGE_BASE_BYTES, print_cost_estimate
from stages.core.results import GAP_PX, enlarge, grid, save_png, write_metrics
from stages.data.reader import ImageSplit, image_facts, num_images
from stages.decoder.decoder import Decoder, check_codes_of, load_decoder
from stages.encoder.encoder import load_encoder
from stages.evaluate.extractors import open_extractors
from stages.evaluate.protocol import describe
from stages.studies.decoding_scores import Originals, extract, score
from stages.studies.params import DecodingSteps


@dataclass(frozen=True)
class Inputs:
    """Folders of five artifacts; the decoder was trained on the codebook's codes."""

    images: Path
    encoder: Path
    classifier: Path
    codebook: Path
    decoder: Path


def measure(inputs: Inputs, report: Path, params: DecodingSteps, machine: Machine) -> None:
    """Write metrics.json and steps.png to the folder `report`."""
    check(inputs, params)
    estimate_cost(inputs.images, report, params)
    device = pick_device(machine.device)
    tokenizer = load_tokenizer(inputs.codebook, device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    originals = open_originals(inputs, params, machine, device)
    codes, picture = tokenizer.encode(originals.images, machine.infer_batch_size), Picture(originals.images, params)
    metrics: dict[str, Any] = {"decoder": decoder_facts(decoder), "codes": code_facts(tokenizer)}
    metrics["images"] = artifact.images_digest(inputs.images)
    for name, variant in variants(decoder, params.steps).items():
        decoded = decode(variant, codes, params.seeds, machine.infer_batch_size)
        picture.add(name, decoded[0])
        metrics[name] = {**score(decoded, originals, params), "gflop_per_image": gflop_per_image(variant, codes)}
        print_summary(name, metrics[name])
    picture.save(report / "steps.png")
    write_metrics(report, {**metrics, "protocol": [protocol(inputs.images, originals, params), picture.layout()]})


def check(inputs: Inputs, params: DecodingSteps) -> None:
    """`UserError` for blocks that the encoder lacks, or artifacts that do not belong together."""
    depth = artifact.read_config(inputs.encoder, "encoder")["depth"]
    if bad := [block for block in params.perceptual_blocks if not 0 <= block < depth]:
        allowed = f"expected block numbers from 0 to {depth - 1}"
        raise impossible("decoding_steps.perceptual_blocks", bad, allowed)
    check_codes_of(inputs.decoder, inputs.codebook)
    again = f"codebook@{inputs.codebook.name}"
    artifact.check_made_from(inputs.codebook, again, images=inputs.images, encoder=inputs.encoder)
    artifact.check_made_from(inputs.decoder, f"decoder@{inputs.decoder.name}", images=inputs.images)
    artifact.check_made_from(inputs.classifier, "classifier", images=inputs.images)


def estimate_cost(images: Path, report: Path, params: DecodingSteps) -> None:
    """Print the cost estimate: the original images used and one decoding per seed are in memory at once."""
    count, side = min(num_images(images, "val"), params.max_images), image_facts(images)["img_px"]
    memory = LARGE_BASE_BYTES + (1 + len(params.seeds)) * count * 3 * side**2
    print_cost_estimate(
        "decoding_steps", report, {"val images": count}, disk_bytes=5 * 2**20, memory_bytes=memory
    )  # fmt: skip


def open_originals(inputs: Inputs, params: DecodingSteps, machine: Machine, device: torch.device) -> Originals:
    """Read the subset of val images and extract their features."""
    val, size = ImageSplit(inputs.images, "val", machine.num_workers), machine.infer_batch_size
    chosen = random_subset(len(val), params.max_images, params.seed)
    images, extractors = val.read(chosen), open_extractors(inputs.encoder, inputs.classifier, device, {})
    perceptual = EncoderPerceptual(load_encoder(inputs.encoder, device), params.perceptual_blocks)
    features = {name: extract(extractor, images, size) for name, extractor in extractors.items()}
    return Originals(images, val.labels[chosen], extractors, features, perceptual, device, size)


def variants(decoder: Decoder, steps: list[int]) -> dict[str, Decoder]:
    """{name of a group of metrics: the decoder at that number of steps}, the number in its config included."""
    if decoder.steps is None:
        return {"once": decoder}
    return {f"steps_{number}": decoder.with_steps(number) for number in sorted({*steps, decoder.steps})}


def decode(decoder: Decoder, codes: np.ndarray, seeds: list[int], batch_size: int) -> list[np.ndarray]:
    """uint8 [M, H, W, 3] under each seed, or once if nothing is random."""
    chosen = seeds if decoder.stochastic else seeds[:1]
    return [decoder.decode(codes, torch.Generator().manual_seed(seed), batch_size) for seed in chosen]


def gflop_per_image(decoder: Decoder, codes: np.ndarray) -> float:
    """The cost of decoding one image: unlike seconds, the same on every machine."""
    with FlopCounterMode(display=False, custom_mapping=PACKED_PRODUCTS) as counter:
        decoder.decode(codes[:1])
    return counter.get_total_flops() / 1e9


def product_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, out_shape: torch.Size, **kw: Any) -> int:
    """FLOPs of a linear map with packed weights."""
    return 2 * prod(out_shape) * x_shape[-1]


def packed_products() -> dict[Any, Any]:
    """{operation of `Product` that torch does not count: its FLOPs}."""
    names = [("mkldnn", "_linear_pointwise"), ("mkl", "_mkl_linear")]
    return {getattr(space, name): product_flops for of, name in names if hasattr(space := getattr(torch.ops, of), name)}


PACKED_PRODUCTS = packed_products()


def decoder_facts(decoder: Decoder) -> dict[str, Any]:
    """Name, kind, tokenizer, size and own number of steps of the decoder."""
    facts = {name: decoder.config[name] for name in ("name", "kind", "tokenizer")}
    facts["parameters"] = decoder.num_parameters
    return facts if decoder.steps is None else {**facts, "steps": decoder.steps}


def code_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Size of a compressed image. With several codebooks, each code is one of num_codes / codebooks."""
    codebooks = tokenizer.num_patches // tokenizer.grid**2
    bits = tokenizer.num_patches * log2(tokenizer.num_codes / codebooks)
    sizes = {"tokens": tokenizer.num_patches, "num_codes": tokenizer.num_codes, "bits_per_image": bits}
    return {"kind": tokenizer.config["kind"], **sizes}


class Picture:
    """steps.png: one row per image of a seeded subset, the same for every decoder; one column per number of steps."""

    def __init__(self, images: np.ndarray, params: DecodingSteps):
        self.chosen = random_subset(len(images), params.images_shown, params.seed)
        self.columns = {"original": images[self.chosen]}
        self.scale = enlarge(images.shape[2])

    def add(self, name: str, decoded: np.ndarray) -> None:
        """Add a column from all images decoded, uint8 [M, H, W, 3]."""
        self.columns[name] = decoded[self.chosen]

    def save(self, path: Path) -> None:
        """Write the PNG."""
        by_row = np.stack([*self.columns.values()], 1)
        save_png(path, grid(by_row.reshape(-1, *by_row.shape[2:]), len(self.columns), self.scale))

    def layout(self) -> dict[str, Any]:
        """Names of the columns; `pitch_px` from the left edge of one column to that of the next."""
        side = self.columns["original"].shape[2] + GAP_PX
        return {"of": "steps.png", "columns": [*self.columns], "pitch_px": side * self.scale}


def protocol(images: Path, originals: Originals, params: DecodingSteps) -> dict[str, Any]:
    """How the metrics were measured; equal for all decoders of the same images."""
    settings = params.model_dump(include={"decoding_precision", "perceptual_blocks", "bootstrap_draws"})
    settings |= {"subset_seed": params.seed, "decoding_seeds": params.seeds}
    labels = originals.labels
    return describe("decoding_steps", "val", images, labels, labels, originals.extractors, **settings)


def print_summary(name: str, metrics: dict[str, Any]) -> None:
    """One line."""
    plain = {key: value for key, value in metrics.items() if isinstance(value, float) and not key.endswith("_std")}
    print(f"decoding_steps: {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in plain.items()), flush=True)
