"""fsq: the autoencoder of vqgan with finite scalar quantization (Mentzer et al. 2023), a baseline of VQ-KD.

The code vectors are fixed. K = prod(levels), for example 8,000 = 8·8·5·5·5.
"""

from stages.codebook import autoencoder_training
from stages.codebook.params import Fsq, Inputs
from stages.codebook.quantizers import Fsq as FsqQuantizer
from stages.core.params import Machine

check = autoencoder_training.check


def fit(inputs: Inputs, params: Fsq, machine: Machine) -> None:
    """Write the codebook artifact with its joint decoder, its curves and usage metrics."""
    quantizer = FsqQuantizer(params.levels)
    autoencoder_training.fit_autoencoder(inputs, params, machine, quantizer, revive=False, levels=params.levels)
