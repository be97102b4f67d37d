"""Val images at multiples of the training size, encoded and decoded by convolutional networks, with PSNR and SSIM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.metrics import mean_and_std, psnr
from stages.core.params import Machine
from stages.core.results import enlarge, grid, save_png, write_metrics
from stages.data.reader import ImageSplit, image_facts
from stages.data.scenes.enlarged import how_enlarged, read_enlarged
from stages.decoder.decoder import Decoder, check_codes_of, load_decoder
from stages.evaluate.metrics import ssim
from stages.studies.params import ResolutionTransfer

JOINT = "decoder"  # folder inside the codebook artifact of a convolutional tokenizer: the decoder trained with it
METRICS = ("psnr_db", "ssim")


@dataclass(frozen=True)
class Inputs:
    """Folders of three artifacts; the decoder was trained on the codebook's codes."""

    images: Path
    codebook: Path
    decoder: Path


def measure(inputs: Inputs, report: Path, params: ResolutionTransfer, machine: Machine) -> None:
    """Write metrics.json and the folder pictures/ to the folder `report`."""
    check_codes_of(inputs.decoder, inputs.codebook)
    artifact.check_made_from(inputs.codebook, f"codebook@{inputs.codebook.name}", images=inputs.images)
    artifact.check_made_from(inputs.decoder, f"decoder@{inputs.decoder.name}", images=inputs.images)
    pictures, images = report / "pictures", {"images": artifact.images_digest(inputs.images)}
    pictures.mkdir(parents=True, exist_ok=True)
    codebook = artifact.read_config(inputs.codebook, "codebook")
    if f"{JOINT}/{artifact.CONFIG}" not in codebook["files"]:
        reason = f"{inputs.codebook.name}: a tokenizer of kind {codebook['kind']} takes images of one size"
        write_metrics(report, {**images, "skipped": reason})
        return
    device = pick_device(machine.device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    if not decoder.any_size:
        reason = f"{inputs.decoder.name}: a decoder of kind {decoder.config['kind']} makes images of one size"
        write_metrics(report, {**images, "skipped": reason})
        return
    joint = load_decoder(inputs.codebook / JOINT, device, params.decoding_precision)
    decoders = {"decoder": decoder, "joint": joint}
    val = ImageSplit(inputs.images, "val", machine.num_workers)
    pipeline = Pipeline(inputs.images, val, load_tokenizer(inputs.codebook, device), decoders, params.seed)
    metrics = at_scales(pipeline, pictures / "scales.png", params, machine.infer_batch_size)
    names = {**images, "name": decoder.config["name"], "tokenizer": codebook["name"]}
    write_metrics(report, {**names, **metrics, "protocol": [protocol(inputs.images, params)]})


@dataclass(frozen=True)
class Pipeline:
    """From val images to codes and back, at any scale."""

    images: Path
    val: ImageSplit
    tokenizer: Tokenizer
    decoders: dict[str, Decoder]
    seed: int

    def run(self, numbers: np.ndarray, scale: int) -> dict[str, np.ndarray]:
        """uint8 [B, H, W, 3]: the numbered images as `original` and, by name, as each decoder decodes them.

        Every batch starts from the same seed, so that the batch size changes no image.
        """
        originals = read_enlarged(self.images, self.val, numbers, scale)
        codes, size = self.tokenizer.encode_squares(originals), len(numbers)
        return {"original": originals} | {
            name: decoder.enlarged(scale).decode(codes, torch.Generator().manual_seed(self.seed), size)
            for name, decoder in self.decoders.items()
        }


def at_scales(
    pipeline: Pipeline, picture: Path, params: ResolutionTransfer, batch_size: int
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """{decoder: {scale_1: metrics, …}}; also writes the picture."""
    val = pipeline.val
    chosen, columns = random_subset(len(val), params.max_images, params.seed), []
    shown = chosen[random_subset(len(chosen), params.images_shown, params.seed)]
    metrics: dict[str, dict[str, Any]] = {name: {} for name in pipeline.decoders}
    for scale in params.scales:
        parts = [compare(pipeline.run(batch, scale)) for batch in batches(chosen, batch_size, scale)]
        for name, found in metrics.items():
            found[f"scale_{scale}"] = summary([part[name] for part in parts], params)
        columns += pipeline.run(shown, scale).values()
        print(f"resolution_transfer: {scale * val.img_px} px done", flush=True)
    save_columns(picture, columns)
    return metrics


def batches(chosen: np.ndarray, size: int, scale: int) -> list[np.ndarray]:
    """The image numbers in runs of at most as many pixels as `size` images of the training size have."""
    step = max(1, size // scale**2)
    return [chosen[start : start + step] for start in range(0, len(chosen), step)]


def compare(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float64 [METRICS, B] of each decoder."""
    original = images["original"]
    return {name: np.stack([psnr(original, decoded), ssim(original, decoded)])
            for name, decoded in images.items() if name != "original"}  # fmt: skip


def summary(parts: list[np.ndarray], params: ResolutionTransfer) -> dict[str, float]:
    """Means over images with their spread."""
    by_metric = zip(METRICS, np.concatenate(parts, 1), strict=True)
    found = [mean_and_std(name, values, params.bootstrap_draws, params.seed) for name, values in by_metric]
    return {key: value for one in found for key, value in one.items()}


def save_columns(path: Path, columns: list[np.ndarray]) -> None:
    """Write a picture with one row per image: at each scale the original and its decoded images, all of one width.

    Columns are uint8 [M, H, W, 3] of different H = W; a pixel of a smaller image becomes several.
    """
    side = max(images.shape[1] for images in columns)
    by_row = np.stack([resize_nearest(images, side) for images in columns], 1)
    save_png(path, grid(by_row.reshape(-1, side, side, 3), len(columns), enlarge(side)))


def resize_nearest(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [M, h, h, 3] -> uint8 [M, side, side, 3], each place the nearest pixel above and to the left."""
    index = np.arange(side) * images.shape[1] // side
    return images[:, index][:, :, index]


def protocol(images: Path, params: ResolutionTransfer) -> dict[str, Any]:
    """How the metrics were measured; equal for all tokenizers and decoders of the same images."""
    facts = image_facts(images)
    return {
        "of": "resolution_transfer",
        "reference": "val",
        "reference_digest": artifact.digest(images)[:12],
        "img_px": facts["img_px"],
        "count": min(facts["splits"]["val"]["images"], params.max_images),
        "larger_images": how_enlarged(images),
        "scales": params.scales,
        "decoding_precision": params.decoding_precision,
        "seed": params.seed,
    }
