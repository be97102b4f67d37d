"""Params of the features stage: which block of the encoder, and of which images."""

from pydantic import Field

from stages.core.params import Section


class Params(Section):
    """The section `features`."""

    block: int  # number of an encoder block from 0, or negative from the end
    final_norm: bool  # apply the encoder's final normalization to the features
    max_train_images: int = Field(ge=0)  # a random subset of so many train images; 0: all
    shard_images: int = Field(gt=0)
    seed: int = Field(ge=0)
