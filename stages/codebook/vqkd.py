"""vqkd: an encoder trained from scratch whose codes predict the features of a frozen teacher (VQ-KD).

Loss = mean (1 - cos(D(z_q), teacher)) + commitment * mean (z - sg(z_q))², unit vectors; D decodes features, not pixels.
The teacher is the pipeline's encoder, at the block and norm of the features artifact, on the same augmented images.
The codes are unit vectors: moving averages (code_decay) of assigned vectors, initialized by k-means on the first batch.
revive_dead_codes: true is an addition of this project; false is VQ-KD as published.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from stages.codebook.dead_codes import REVIVE, count_usage, warn_of_collapse, write_usage
from stages.codebook.encoder_features import EncoderFeatures
from stages.codebook.params import Inputs, Vqkd
from stages.codebook.tokenizer import new_codebook
from stages.codebook.vqkd_encoder import VQKD, WEIGHTS, EmaVq, FeatureDecoder, VqkdEncoder, cosine_loss
from stages.core import artifact
from stages.core.distributed import linspace_indices, rank
from stages.core.hardware import barrier, compute, gathered, pick_device, process_group
from stages.core.images import Batches, augmented, to_float
from stages.core.networks import save_tensors
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.schemas import check_shares
from stages.core.scratch import scratch
from stages.core.train import Batch
from stages.core.train import fit as train
from stages.data.reader import ImageSplit, image_facts
from stages.encoder.encoder import load_encoder

EVAL_IMAGES = 256  # images per split on which curves are measured
REMEDY = f"{REVIVE}, lower commitment, dim or num_codes, or train longer"  # for dead codes


def shape_of(inputs: Inputs, params: Vqkd) -> dict[str, Any]:
    """The arguments of build_vit: as many patches per side as the teacher has."""
    num_patches = artifact.read_config(inputs.features, "features")["num_patches"]
    img_px = image_facts(inputs.images)["img_px"]
    return {
        "img_px": img_px,
        "patch_px": img_px // round(num_patches**0.5),
        **params.encoder.model_dump(),
        "seed": params.optim.seed,
    }


def check(inputs: Inputs, params: Vqkd) -> None:
    """`UserError` for patches that the encoder cannot have, and a batch of too few vectors or not to be shared."""
    check_shares(f"{inputs.section}.optim", params.optim)
    num_patches = artifact.read_config(inputs.features, "features")["num_patches"]
    shape, side = shape_of(inputs, params), round(num_patches**0.5)
    patch_px = shape["patch_px"]
    if patch_px < 2 or patch_px & (patch_px - 1) or shape["img_px"] != side * patch_px:
        why = f"the teacher has {side} patches per side: expected {side} times a power of two for kind vqkd"
        raise impossible("data.img_px", shape["img_px"], why)
    if shape["dim"] % (8 * patch_px):
        why = f"expected a multiple of {8 * patch_px}, 8 for each of a patch's {patch_px} px"
        raise impossible(f"{inputs.section}.encoder.dim", shape["dim"], why)
    if (patches := params.optim.batch_size * num_patches) < params.num_codes:
        why = f"expected at most the {patches:,} patches of a batch, from which the codes start; or raise batch_size"
        raise impossible(f"{inputs.section}.num_codes", params.num_codes, why)


def fit(inputs: Inputs, params: Vqkd, machine: Machine) -> None:
    """Write the codebook artifact, its curves and usage metrics."""
    shape, curves, optim = shape_of(inputs, params), Curves(), params.optim
    estimate(inputs, shape, params)
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    teacher = open_teacher(inputs, device)
    model = build(shape, params, teacher.encoder.maps[teacher.blocks[0]][1]).to(device)
    splits = {split: ImageSplit(inputs.images, split, machine.num_workers) for split in ("train", "val")}
    sources = [inputs.images, inputs.encoder, inputs.features]
    with process_group(), scratch(inputs.out, params, sources, meet=barrier) as work:
        batches = Batches("vqkd", splits, params.augment, optim)
        with torch.no_grad():
            first = augmented(*(tensor.to(device) for tensor in batches.batch_at(0)))
            model.quantizer.start_from(gathered(model.encoder(first).flatten(0, 1)))
        train(
            model, optim, batches.batch_at, make_loss(teacher, params, device),
            make_evaluate(inputs.name, teacher, splits, machine, device), curves, work=work,
            machine=machine.whole_batches(), device=device, name=f"codebook {inputs.name}",
            batch_keys=batches.batch_keys,
        )  # fmt: skip
        if rank() == 0:
            usage, losses = {}, {}
            for split, images in splits.items():
                usage[split], losses[split] = measure(model, teacher, images, machine, device)
            write_usage(inputs, curves, params.num_codes, usage, REMEDY, cosine_loss=losses)
            publish(inputs, model, shape)
        barrier()


def estimate(inputs: Inputs, shape: dict[str, Any], params: Vqkd) -> None:
    """Print the cost; on disk are weights, average and two moments, twice for a while, and the artifact."""
    blocks = shape["depth"] + params.decoder_depth
    weights = 12 * shape["dim"] ** 2 * (blocks + 1) * 4
    teacher, patches = artifact.read_config(inputs.encoder, "encoder"), (shape["img_px"] // shape["patch_px"]) ** 2
    counts, memory = {"steps": params.optim.total_steps}, params.peak_bytes(patches, teacher)
    print_cost_estimate("codebook", inputs.out, counts, disk_bytes=9 * weights, memory_bytes=memory)


def open_teacher(inputs: Inputs, device: torch.device) -> EncoderFeatures:
    """The frozen encoder at the block of the stored features."""
    features = artifact.read_config(inputs.features, "features")
    return EncoderFeatures(load_encoder(inputs.encoder, device), [features["block"]], features["final_norm"])


def build(shape: dict[str, Any], params: Vqkd, teacher_dim: int) -> VQKD:
    """The network with its initial weights."""
    num_patches = (shape["img_px"] // shape["patch_px"]) ** 2
    sizes = {"width": shape["dim"], "depth": params.decoder_depth, "heads": shape["heads"]}
    decoder = FeatureDecoder(params.dim, num_patches, **sizes, dim_out=teacher_dim)
    quantizer = EmaVq(params.num_codes, params.dim, params.code_decay, params.revive_dead_codes)
    return VQKD(VqkdEncoder(shape, params.dim), quantizer, decoder, params.commitment)


def make_loss(
    teacher: EncoderFeatures, params: Vqkd, device: torch.device
) -> Callable[[VQKD, Batch, int], tuple[Tensor, dict[str, Tensor]]]:
    """(model, batch, step) -> loss, scalars; the teacher in its own precision, cosines and codes in fp32."""

    def loss(model: VQKD, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = augmented(*batch)
        with torch.no_grad():
            target = teacher(pixels)
        with compute(device, params.optim.precision):
            return model(pixels, target)

    return loss


def make_evaluate(
    name: str, teacher: EncoderFeatures, splits: dict[str, ImageSplit], machine: Machine, device: torch.device
) -> Callable[[int, VQKD], dict[str, float]]:
    """(step, averaged model) -> cosine loss on evenly spaced plain images of each split; warns of collapse."""

    def evaluate(step: int, model: VQKD) -> dict[str, float]:
        warn_of_collapse(name, float(model.quantizer.live_fraction()), REMEDY)
        return {
            f"{split}/cosine_loss": measure(model, teacher, images, machine, device, EVAL_IMAGES)[1]
            for split, images in splits.items()
        }

    return evaluate


def measure(
    model: VQKD, teacher: EncoderFeatures, images: ImageSplit, machine: Machine, device: torch.device, limit: int = 0
) -> tuple[dict[str, float], float]:
    """Usage metrics and cosine loss on plain images, at most `limit` of them, evenly spaced (0: all)."""
    chosen, losses = linspace_indices(len(images), limit or len(images)), []

    def codes_of() -> Iterator[Tensor]:
        for start in range(0, len(chosen), machine.infer_batch_size):
            pixels = to_float(images.read(chosen[start : start + machine.infer_batch_size]), device)
            quantized, codes, _ = model.quantizer(model.encoder(pixels))
            losses.append(float(cosine_loss(model.decoder(quantized), teacher(pixels))) * len(pixels))
            yield codes

    return count_usage(codes_of(), len(model.quantizer.vectors)), sum(losses) / len(chosen)


def publish(inputs: Inputs, model: VQKD, shape: dict[str, Any]) -> None:
    """The codebook artifact with the trained encoder; the feature decoder served training only and is not kept."""
    vectors, grid = model.quantizer.unit_vectors(), shape["img_px"] // shape["patch_px"]
    sources = ("images", "encoder", "features")
    with new_codebook(inputs, "vqkd", vectors, sources, normalize=True, grid=grid, shape=shape) as folder:
        save_tensors(folder / WEIGHTS, model.encoder.state_dict())
