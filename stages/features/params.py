"""Params of the features stage: which block of the encoder, and of which images."""

from typing import Any

from pydantic import Field

from stages.core.params import Machine, Section
from stages.core.progress import BASE_BYTES
from stages.core.schemas import FP32, maps_of


class Params(Section):
    """The section `features`."""

    block: int  # number of an encoder block from 0, or negative from the end
    final_norm: bool  # apply the encoder's final normalization to the features
    max_train_images: int = Field(ge=0)  # a random subset of so many train images; 0: all
    shard_images: int = Field(gt=0)
    seed: int = Field(ge=0)


def peak_bytes(encoder_bytes: int, encoder: dict[str, Any], block: int, machine: Machine) -> int:
    """Memory of one process: the encoder's weights twice while they are read, activations of a batch.

    `encoder`: its config. For each value of an image's features a vision transformer has about 20 activations; another
    network holds what its largest layer reads and gives, and about as much again.
    """
    side, dim = maps_of(encoder)[block]
    values = 2 * encoder["activations"]["largest"] if "activations" in encoder else 20 * side**2 * dim
    return BASE_BYTES + 2 * encoder_bytes + machine.infer_batch_size * values * FP32
