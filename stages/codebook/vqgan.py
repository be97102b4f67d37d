"""vqgan: a convolutional autoencoder with a vector-quantized bottleneck (Esser et al. 2021), a baseline of VQ-KD.

Loss = that of stages/core/gan_trainer.py + mean (c - sg(z))² + commitment * mean (z - sg(c))². The code vectors are
initialized uniformly in ±1/K. With revive_dead_codes: true, as in CVQ-VAE (Zheng & Vedaldi 2023), all of them become
features of the first batch, and dead codes are moved in the same way later.
"""

import torch

from stages.codebook import autoencoder_training
from stages.codebook.params import Inputs, Vqgan
from stages.codebook.quantizers import Vq
from stages.core.params import Machine

check = autoencoder_training.check


def fit(inputs: Inputs, params: Vqgan, machine: Machine) -> None:
    """Write the codebook artifact with its joint decoder, its curves and usage metrics."""
    torch.manual_seed(params.optim.seed)
    quantizer = Vq(params.num_codes, params.dim, params.commitment)
    autoencoder_training.fit_autoencoder(inputs, params, machine, quantizer, params.revive_dead_codes)
