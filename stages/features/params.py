"""Params of the features stage: which block of the encoder, and of which images."""

from pydantic import Field

from stages.core.params import Machine, Section
from stages.core.progress import BASE_BYTES


class Params(Section):
    """The section `features`."""

    block: int  # number of an encoder block from 0, or negative from the end
    final_norm: bool  # apply the encoder's final normalization to the features
    max_train_images: int = Field(ge=0)  # a random subset of so many train images; 0: all
    shard_images: int = Field(gt=0)
    seed: int = Field(ge=0)


def peak_bytes(encoder_bytes: int, values: int, machine: Machine) -> int:
    """Memory of one process: the encoder's weights twice while they are read, activations of a batch.

    `values`: of an image's features, for each of which there are about 20 activations of 4 bytes.
    """
    return BASE_BYTES + 2 * encoder_bytes + machine.infer_batch_size * values * 80
