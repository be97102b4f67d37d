"""Training of onestep decoders on a frozen tokenizer's codes, with pixel, perceptual and hinge GAN losses."""

from torch import Tensor

from stages.core.discriminator import HingeAdversarialLoss, Reconstruction
from stages.core.params import Machine
from stages.decoder import training
from stages.decoder.onestep import OneStep, build
from stages.decoder.params import Inputs, OneStepParams

check = training.check


def fit(inputs: Inputs, params: OneStepParams, machine: Machine) -> None:
    """Write the decoder artifact and its report."""
    config = training.network_config(inputs, params.kind, params)
    setup = training.load_setup(inputs, params, machine)
    network = build(setup.vectors, config).to(setup.device)
    last_layer = network.network.to_pixels.weight
    adversarial = HingeAdversarialLoss(params, last_layer, setup.encoder, setup.device)
    training.train(setup, config, network, adversarial, reconstruct)


def reconstruct(network: OneStep, pixels: Tensor, codes_BN: Tensor) -> Reconstruction:
    """The decoded codes; the network has no loss of its own."""
    return Reconstruction(network(codes_BN), pixels.new_zeros(()))
