"""Training of render decoders: codes of a frozen tokenizer to those of a frozen pixel tokenizer.

Both tokenizers encode the same augmented images; only the transformer is trained. The negative log-likelihood of the
pixel codes, in nats per code, is exact for method ar and an upper bound for masked.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError, artifact, distributed, train
from stages.core.distributed import linspace_indices, seed_of
from stages.core.hardware import barrier, compute, pick_device, process_group
from stages.core.images import Batches, augmented, to_float
from stages.core.metrics import psnr
from stages.core.networks import save_tensors
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves, enlarge, grid, save_png
from stages.core.sampling import autoregressive_loss, autoregressive_nats, masked_loss, masked_nats
from stages.core.schemas import check_shares
from stages.core.scratch import scratch
from stages.core.train import Batch
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.decoder import base_config, load_decoder
from stages.decoder.params import LIKELIHOOD_BATCH, Inputs, RenderParams
from stages.decoder.pixel_tokenizer import codebook_in
from stages.decoder.render import RenderDecoder, RenderTransformer, build

PICTURE_IMAGES = 16  # val images in the picture
LOSSES = {"ar": autoregressive_loss, "masked": masked_loss}
NATS = {"ar": autoregressive_nats, "masked": masked_nats}


@dataclass(frozen=True)
class Codes:
    """Images uint8 [B, H, W, 3], their codes int64 [B, M], and their pixel codes int64 [B, N]."""

    images: np.ndarray
    given: Tensor
    pixel: Tensor


class CodePairs:
    """Codes of two tokenizers for the same images: augmented train batches, and images of train and val as they are."""

    def __init__(
        self, images: Path, tokenizer: Tokenizer, pixel_tokenizer: Tokenizer, params: RenderParams,
        machine: Machine, device: torch.device,
    ):  # fmt: skip
        splits = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        self.batches = Batches("pairs", splits, params.augment, params.optim)
        self.tokenizer, self.pixel_tokenizer = tokenizer, pixel_tokenizer
        self.device, self.infer_batch_size = device, machine.infer_batch_size

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, 3, H, W] in [-1, 1] -> int64 [B, M] and int64 [B, N], the codes of both tokenizers."""
        return self.tokenizer.encode_pixels(pixels), self.pixel_tokenizer.encode_pixels(pixels)

    @cached_property
    def eval_subset(self) -> dict[str, Codes]:
        """Plain images of each split that curves and pictures use."""
        return {name: self.codes_of(images) for name, images in self.batches.eval_subset.items()}

    def codes_of(self, images: np.ndarray) -> Codes:
        """Both codes of images without augmentation, uint8 [B, H, W, 3]."""
        parts = torch.from_numpy(images).split(self.infer_batch_size)
        given, pixel = zip(*(self.encode(to_float(part, self.device)) for part in parts), strict=True)
        return Codes(images, torch.cat(given), torch.cat(pixel))


def check(inputs: Inputs, params: RenderParams) -> None:
    """`UserError` without a pixel tokenizer, for one of another image size, and for too many decoding steps."""
    check_shares(f"{inputs.section}.optim", params.optim)
    pixel, name = codebook_in(inputs.pixel_tokenizer), inputs.name
    if pixel is None:
        needed = f"decoder {name} of kind {params.kind} needs a tokenizer with a decoder of its own"
        raise UserError(f"params.yaml: pixel_tokenizer.{name}: missing; {needed}")
    pixel_px = artifact.read_config(pixel / "decoder", "decoder")["img_px"]
    if pixel_px != (img_px := image_facts(inputs.images)["img_px"]):
        sizes = f"decodes images of {pixel_px} px, {inputs.images} has {img_px} px"
        raise UserError(f"{inputs.pixel_tokenizer}: {sizes}. Run `dvc repro`.")
    check_pixel_codes(inputs, pixel)
    check_steps(inputs.section, params, artifact.read_config(pixel, "codebook")["num_patches"])


def check_pixel_codes(inputs: Inputs, pixel: Path) -> None:
    """`UserError` for a pixel tokenizer of other images or, if both are of one name, another one than the tokenizer."""
    again = f"pixel_tokenizer@{inputs.name}"
    artifact.check_made_from(pixel, again, images=inputs.images, encoder=inputs.encoder)
    names = {artifact.read_config(folder, "codebook")["name"] for folder in (pixel, inputs.codebook)}
    if len(names) == 1:
        artifact.check_made_from(inputs.pixel_tokenizer, again, codebook=inputs.codebook)


def check_steps(section: str, params: RenderParams, num_patches: int) -> None:
    """`UserError` for more steps than pixel codes: every step of method masked decides at least one."""
    if params.method == "masked" and (steps := params.sampling.steps) > num_patches:
        why = f"expected at most {num_patches}, the number of pixel codes per image: a step decides at least one"
        raise impossible(f"{section}.sampling.steps", steps, why)


def render_config(inputs: Inputs, params: RenderParams, pixel_codebook: Path) -> dict[str, Any]:
    """config.json of the decoder."""
    given = artifact.read_config(inputs.codebook, "codebook")
    pixel = artifact.read_config(pixel_codebook, "codebook")
    shape = {
        "num_given": given["num_codes"], "given_patches": given["num_patches"],
        "num_codes": pixel["num_codes"], "num_patches": pixel["num_patches"],
        **params.model.model_dump(exclude={"label_smoothing"}),
    }  # fmt: skip
    base = base_config(inputs, params.kind, pixel_tokenizer=artifact.digest(inputs.pixel_tokenizer))
    own = {"method": params.method, "shape": shape, "sampling": params.sampling.model_dump()}
    return base | own | {"pixel_tokenizer": pixel["name"]}


def fit(inputs: Inputs, params: RenderParams, machine: Machine) -> None:
    """Write the decoder artifact and its report."""
    pixel_codebook = codebook_in(inputs.pixel_tokenizer)
    assert pixel_codebook is not None, "checked"
    config = render_config(inputs, params, pixel_codebook)
    device, curves = pick_device(machine.device), Curves()
    torch.manual_seed(params.optim.seed)
    network = build(config).to(device)
    estimate_cost(inputs.out, network, params, machine)
    tokenizers = load_tokenizer(inputs.codebook, device), load_tokenizer(pixel_codebook, device)
    pairs = CodePairs(inputs.images, *tokenizers, params, machine, device)
    sources = [inputs.images, inputs.codebook, inputs.pixel_tokenizer]
    with process_group(), scratch(inputs.out, params, sources, meet=barrier) as work:
        train.fit(
            network, params.optim, pairs.batches.batch_at, partial(pair_loss, pairs=pairs, params=params),
            partial(evaluate, pairs=pairs, method=params.method), curves, work=work,
            machine=machine, device=device, name=f"decoder {inputs.out.name}",
            batch_keys=pairs.batches.batch_keys,
        )  # fmt: skip
        if distributed.rank() == 0:
            decoder = RenderDecoder(network, config, device, load_decoder(pixel_codebook / "decoder", device))
            curves.log(params.optim.total_steps, **score_images(decoder, pairs, inputs.report, params.optim.seed))
            curves.write(inputs.report, images=artifact.images_digest(inputs.images))
            publish(inputs.out, network, pixel_codebook, config)
        barrier()


def estimate_cost(out: Path, network: RenderTransformer, params: RenderParams, machine: Machine) -> None:
    """Print the cost estimate; weights, optimizer state and averages are five copies."""
    size, images = sum(p.numel() for p in network.parameters()), params.optim.images_at_once(machine)
    memory = params.peak_bytes(size, network.given_patches, network.num_patches, network.num_codes, images)
    counts = {"steps": params.optim.total_steps, "parameters": size}
    print_cost_estimate("decoder", out, counts, disk_bytes=size * 20 + 50 * 2**20, memory_bytes=memory)


def pair_loss(
    model: RenderTransformer, batch: Batch, step: int, *, pairs: CodePairs, params: RenderParams
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the pixel codes, under autocast; masks depend on the step alone."""
    codes = pairs.encode(augmented(*batch))
    rng = torch.Generator().manual_seed(seed_of("masks", params.optim.seed, step))
    with compute(pairs.device, params.optim.precision):
        return LOSSES[params.method](model, *codes, rng, params.model.label_smoothing), {}


def evaluate(step: int, model: RenderTransformer, *, pairs: CodePairs, method: str) -> dict[str, float]:
    """Nats per pixel code on plain train and val images."""
    return {f"{name}/nats_per_code": nats_per_code(model, codes, method) for name, codes in pairs.eval_subset.items()}


def nats_per_code(model: RenderTransformer, codes: Codes, method: str) -> float:
    """Mean -ln p per pixel code given the codes of the image, with the same masks at every call."""
    rng, total = torch.Generator().manual_seed(0), 0.0
    with torch.inference_mode():
        for given, pixel in zip(*(part.split(LIKELIHOOD_BATCH) for part in (codes.given, codes.pixel)), strict=True):
            total += float(NATS[method](model, given, pixel, rng).double().sum())
    return total / codes.pixel.numel()


def score_images(decoder: RenderDecoder, pairs: CodePairs, report: Path, seed: int) -> dict[str, float]:
    """PSNR in dB of decoded train and val images, and of the pixel tokenizer's own reconstructions.

    The picture of val images shows originals, the pixel tokenizer's reconstructions, and decoded images, one row each.
    """
    found, size, rows = {}, pairs.infer_batch_size, []
    for split, codes in pairs.eval_subset.items():
        own = decoder.pixel_decoder.decode(codes.pixel, batch_size=size)
        decoded = decoder.decode(codes.given, torch.Generator().manual_seed(seed), size)
        found[f"{split}/pixel_tokenizer_psnr_db"] = float(psnr(codes.images, own).mean())
        found[f"{split}/psnr_db"] = float(psnr(codes.images, decoded).mean())
        shown = linspace_indices(len(decoded), PICTURE_IMAGES)
        rows = [pictures[shown] for pictures in (codes.images, own, decoded)]
    picture = grid(np.concatenate(rows), len(rows[0]), enlarge(rows[0].shape[1]))
    save_png(report / "pictures" / "rendered.png", picture)
    return found


def publish(out: Path, network: RenderTransformer, pixel_codebook: Path, config: dict[str, Any]) -> None:
    """Write the artifact: the transformer, and the pixel tokenizer's decoder in `decoder/`."""
    with artifact.new_artifact(out, "decoder", config) as folder:
        save_tensors(folder / "model.safetensors", network.state_dict())
        artifact.copy(pixel_codebook / "decoder", folder / "decoder")
