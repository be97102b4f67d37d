"""GAN training that onestep and diffusion share: checks, frozen inputs, the loop, the artifact."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError, artifact, distributed
from stages.core.discriminator import AdversarialLoss, Reconstruction
from stages.core.gan_trainer import GanTrainer
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.networks import save_tensors
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.schemas import ReconstructionLossConfig, check_perceptual, check_shares
from stages.core.scratch import scratch
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.decoder import base_config
from stages.decoder.params import Inputs
from stages.encoder.encoder import Encoder, load_encoder

# (network, pixels float [B, 3, H, W] in [-1, 1], their codes int64 [B, N]) -> Reconstruction
Reconstruct = Callable[[Any, Tensor, Tensor], Reconstruction]


@dataclass(frozen=True)
class Setup:
    """The frozen inputs of one training, loaded on its device, with its params."""

    inputs: Inputs
    params: ReconstructionLossConfig
    machine: Machine
    device: torch.device
    tokenizer: Tokenizer
    encoder: Encoder
    splits: dict[str, ImageSplit]

    @property
    def vectors(self) -> Tensor:
        """Code vectors of the tokenizer, float [K, D]."""
        return self.tokenizer.codebook.vectors


def num_doublings(grid: int, img_px: int) -> int:
    """Number of doublings from the side of the code grid to that of the image."""
    return max((img_px // grid).bit_length() - 1, 0)


def widths_from(grid: int, img_px: int, widths: list[int]) -> list[int]:
    """Channels on the code grid, then after each doubling; the last of `widths` is always at img_px.

    A grid coarser than `widths` provides for repeats the first, so that one section serves tokenizers of any grid.
    """
    levels = num_doublings(grid, img_px) + 1
    return (widths[:1] * (levels - len(widths)) + widths)[-levels:]


def check(inputs: Inputs, params: ReconstructionLossConfig) -> None:
    """`UserError` for a batch size, code grid or perceptual block that does not fit, before any work."""
    check_shares(f"{inputs.section}.optim", params.optim)
    grid, img_px = artifact.read_config(inputs.codebook, "codebook")["grid"], image_facts(inputs.images)["img_px"]
    if grid * 2 ** num_doublings(grid, img_px) != img_px:
        raise UserError(f"{inputs.codebook}: {grid} x {grid} codes do not become {img_px} px by doubling")
    check_perceptual(inputs.section, params, artifact.read_config(inputs.encoder, "encoder")["depth"])


def network_config(inputs: Inputs, kind: str, params: ReconstructionLossConfig) -> dict[str, Any]:
    """The config of a convolutional decoder."""
    config = base_config(inputs, kind)
    widths = widths_from(config["grid"], config["img_px"], params.widths)
    return config | {"widths": widths, "blocks": params.blocks}


def load_setup(inputs: Inputs, params: ReconstructionLossConfig, machine: Machine) -> Setup:
    """Print the cost estimate, load all inputs, then seed the initial weights of the networks that follow."""
    estimate(inputs, params, machine)
    device = pick_device(machine.device)
    tokenizer, encoder = load_tokenizer(inputs.codebook, device), load_encoder(inputs.encoder, device)
    splits = {split: ImageSplit(inputs.images, split, machine.num_workers) for split in ("train", "val")}
    torch.manual_seed(params.optim.seed)
    return Setup(inputs, params, machine, device, tokenizer, encoder, splits)


def estimate(inputs: Inputs, params: ReconstructionLossConfig, machine: Machine) -> None:
    """Print the cost; on disk are checkpoints."""
    encoder, img_px = artifact.read_config(inputs.encoder, "encoder"), image_facts(inputs.images)["img_px"]
    widths = widths_from(artifact.read_config(inputs.codebook, "codebook")["grid"], img_px, params.widths)
    memory = params.peak_bytes(widths, img_px, encoder, params.optim.images_at_once(machine))
    counts = {"steps": params.optim.total_steps}
    print_cost_estimate("decoder", inputs.out, counts, disk_bytes=200 * 2**20, memory_bytes=memory)


def train(
    setup: Setup, config: dict[str, Any], network: nn.Module, adversarial: AdversarialLoss, reconstruct: Reconstruct
) -> None:
    """Train `network` and write the decoder artifact with its EMA weights, curves, metrics and pictures."""
    inputs, params, device = setup.inputs, setup.params, setup.device
    if distributed.rank() == 0:
        print(f"decoder: {sum(p.numel() for p in network.parameters()):,} parameters")

    def encode_and_reconstruct(network: Any, pixels: Tensor) -> Reconstruction:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            codes = setup.tokenizer.encode_pixels(pixels)
        return reconstruct(network, pixels, codes)

    vgg16_hash = artifact.sha256(Path(params.lpips_vgg16)) if params.lpips_vgg16 else ""
    sources = [inputs.images, inputs.encoder, inputs.codebook]
    with process_group(), scratch(inputs.out, params, sources, vgg16_hash, meet=barrier) as work:
        trainer = GanTrainer(
            f"decoder {inputs.out.name}", network, encode_and_reconstruct, adversarial,
            setup.encoder, setup.splits, params, setup.machine, work, device,
        )  # fmt: skip
        trainer.train()
        if distributed.rank() == 0:
            trainer.write_report(inputs.report, images=artifact.images_digest(inputs.images))
            with artifact.new_artifact(inputs.out, "decoder", config) as folder:
                save_tensors(folder / "model.safetensors", network.state_dict())
        barrier()
