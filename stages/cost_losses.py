"""Floating-point operations of the perceptual distance and of discriminators, per image."""

import torch
from torchvision.models import vgg16

from stages.core.discriminator import PatchDiscriminator
from stages.core.schemas import ReconstructionLossConfig
from stages.cost_networks import PASSES, Networks
from stages.decoder.diffusion_training import TimedDiscriminator
from stages.decoder.params import TrajectoryGan


def loss_flops(networks: Networks, section: ReconstructionLossConfig) -> int:
    """Of the perceptual distance and of the discriminator, from its first step on; per image and step."""
    flops = 0
    if section.perceptual_weight:  # both images forward, one of them backward to its pixels
        flops += 3 * perceptual_flops(networks, section)
    if section.gan.weight:
        active = 1 - section.gan_start / section.optim.total_steps
        flops += int(active * adversarial_flops(networks, section))
    return flops


def perceptual_flops(networks: Networks, section: ReconstructionLossConfig) -> int:
    """The network of the perceptual distance, once forward: the frozen encoder, or VGG-16 for LPIPS."""
    if section.lpips_vgg16:
        return networks.on_image(lambda: vgg16().features, "vgg16")
    return networks.encode_flops(section.perceptual_blocks)


def adversarial_flops(networks: Networks, section: ReconstructionLossConfig) -> int:
    """A step of the network with its discriminator, and one of the discriminator.

    The term of the network: forward, and backward to the pixels. The discriminator's own step: forward and backward
    for the real and the reconstructed image. R1 takes the gradient of that of the real image: three passes more.
    """
    gan, side = section.gan, networks.img_px
    if gan.reads_features:  # heads on the frozen encoder
        return 4 * networks.encode_flops(section.perceptual_blocks)
    if not isinstance(gan, TrajectoryGan):
        return (2 + 2 * PASSES) * networks.on_image(lambda: PatchDiscriminator(gan.width), "discriminator", gan.width)
    images = [torch.empty(1, 3, side, side, device="meta") for _ in range(2)]
    once = networks.once(
        lambda: TimedDiscriminator(gan.width)(*images, torch.zeros(1)), "timed discriminator", gan.width
    )
    return (2 + 2 * PASSES + (PASSES if gan.r1_weight else 0)) * once
