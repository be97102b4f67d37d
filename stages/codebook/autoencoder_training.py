"""Training of the autoencoder of vqgan and fsq; writes the encoder with its codes, and the decoder inside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.codebook.autoencoder import WEIGHTS, Autoencoder
from stages.codebook.dead_codes import count_usage, warn_of_collapse, write_usage
from stages.codebook.params import Fsq, Inputs, Vqgan
from stages.codebook.quantizers import Fsq as FsqQuantizer
from stages.codebook.quantizers import Vq
from stages.codebook.tokenizer import new_codebook
from stages.core import artifact
from stages.core.discriminator import HingeAdversarialLoss, Reconstruction
from stages.core.distributed import rank
from stages.core.gan_trainer import GanTrainer
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.images import to_float
from stages.core.networks import save_tensors
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.schemas import check_perceptual, check_shares
from stages.core.scratch import scratch
from stages.data.reader import ImageSplit, image_facts
from stages.encoder.encoder import load_encoder

SPLITS = ("train", "val")


def check(inputs: Inputs, params: Vqgan | Fsq) -> None:
    """`UserError` for a batch that the processes cannot share, levels that do not divide the image, unknown blocks."""
    check_shares(f"{inputs.section}.optim", params.optim)
    img_px, halvings = image_facts(inputs.images)["img_px"], len(params.widths) - 1
    if img_px % 2**halvings:
        why = f"{halvings} halvings need an image of a multiple of {2**halvings} px; it has {img_px}"
        raise impossible(f"{inputs.section}.widths", params.widths, why)
    check_perceptual(inputs.section, params, artifact.read_config(inputs.encoder, "encoder")["depth"])


def fit_autoencoder(
    inputs: Inputs, params: Vqgan | Fsq, machine: Machine, quantizer: Vq | FsqQuantizer, revive: bool, **facts: Any
) -> None:
    """Write the codebook artifact, its curves and usage metrics; `facts` enter its config.

    Usage is that of all images per split; `eval_psnr_db` that of the images behind the curves (GanTrainer).
    """
    img_px = image_facts(inputs.images)["img_px"]
    shape = {"grid": img_px >> (len(params.widths) - 1), "widths": params.widths, "blocks": params.blocks}
    estimate(inputs, params, img_px)
    device = pick_device(machine.device)
    torch.manual_seed(params.optim.seed)
    network = Autoencoder(quantizer, shape, params.input_noise, revive).to(device)
    perceptual = artifact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    sources = [inputs.images, inputs.encoder]
    with process_group(), scratch(inputs.out, params, sources, perceptual, meet=barrier) as work:
        splits = {split: ImageSplit(inputs.images, split, machine.num_workers) for split in SPLITS}
        encoder = load_encoder(inputs.encoder, device)
        gan = HingeAdversarialLoss(params, network.decoder.to_pixels.weight, encoder, device)
        trainer = GanTrainer(
            f"codebook {inputs.name}", network, lambda model, pixels: Reconstruction(*model(pixels)), gan,
            encoder, splits, params, machine.whole_batches(), work, device,
        )  # fmt: skip
        trainer.train(lambda scores: warn_of_collapse(inputs.name, scores["live_fraction"], quantizer.remedy))
        if rank() == 0:
            network.eval()
            report(inputs, trainer, network, splits, machine)
            publish(inputs, params.kind, network, {**facts, **shape}, img_px)
        barrier()


def report(
    inputs: Inputs, trainer: GanTrainer, network: Autoencoder, splits: dict[str, ImageSplit], machine: Machine
) -> None:
    """Write curves and usage metrics."""
    quantizer, last = network.quantizer, trainer.curves.last()
    usage = {
        split: count_usage(codes_of(network, images, machine, trainer.device), len(quantizer.vectors))
        for split, images in splits.items()
    }
    more: dict[str, Any] = {"eval_psnr_db": {split: last[f"{split}/psnr_db"] for split in splits}}
    more |= {name: last[name] for name in ("adversarial_off",) if name in last}  # only with a discriminator
    write_usage(inputs, trainer.curves, len(quantizer.vectors), usage, quantizer.remedy, **more)


def estimate(inputs: Inputs, params: Vqgan | Fsq, img_px: int) -> None:
    """Print the cost; on disk are checkpoints."""
    encoder, batch = artifact.read_config(inputs.encoder, "encoder"), params.optim.batch_size
    memory, counts = params.peak_bytes(params.widths, img_px, encoder, batch), {"steps": params.optim.total_steps}
    print_cost_estimate("codebook", inputs.out, counts, disk_bytes=200 * 2**20, memory_bytes=memory)


def codes_of(network: Autoencoder, split: ImageSplit, machine: Machine, device: torch.device) -> Iterator[Tensor]:
    """int64 [B, N], batch by batch: the codes of all plain images of one split."""
    for start in range(0, len(split), machine.infer_batch_size):
        numbers = range(start, min(start + machine.infer_batch_size, len(split)))
        yield network.quantizer.assign(network.encoder(to_float(split.read(numbers), device)))


def publish(inputs: Inputs, kind: str, network: Autoencoder, facts: dict[str, Any], img_px: int) -> None:
    """The codebook artifact with its encoder, and the decoder artifact inside."""
    vectors = network.quantizer.vectors
    with new_codebook(inputs, kind, vectors, ("images", "encoder"), normalize=False, **facts) as folder:
        save_tensors(folder / WEIGHTS, network.encoder.state_dict())
        config = {
            "kind": "onestep", "name": "joint", "tokenizer": inputs.name, "num_codes": len(vectors), "codebooks": 1,
            **{key: facts[key] for key in ("grid", "widths", "blocks")}, "img_px": img_px,
            "inputs": {name: artifact.digest(getattr(inputs, name)) for name in ("images", "encoder")},
        }  # fmt: skip
        with artifact.new_artifact(folder / "decoder", "decoder", config) as inner:
            save_tensors(inner / "model.safetensors", decoder_state(network))


def decoder_state(network: Autoencoder) -> dict[str, Tensor]:
    """The decoder's weights under the names of a onestep decoder artifact, with the code vectors."""
    decoder = {f"network.{key}": tensor for key, tensor in network.decoder.state_dict().items()}
    return {"vectors": network.quantizer.vectors.detach().clone(), **decoder}
