"""Params of the tokens stage: how many views of each train image are encoded."""

from pydantic import Field

from stages.core.params import Machine, Section
from stages.core.progress import BASE_BYTES
from stages.core.schemas import Affine


class Params(Section):
    """The section `tokens`."""

    views: int = Field(gt=0)  # per train image; the first is the image itself, the others are augmented
    augment: Affine
    seed: int = Field(ge=0)


def peak_bytes(weights_bytes: int, values: int, pixel_values: int, machine: Machine) -> int:
    """Memory of one process: the tokenizer's weights twice while they are read, activations of a batch.

    `values`: of an image's features, for each of which there are about 20 activations of 4 bytes; `pixel_values`: of
    the network's widest layer on pixels, 4 activations.
    """
    return BASE_BYTES + 2 * weights_bytes + machine.infer_batch_size * (values * 80 + pixel_values * 16)
