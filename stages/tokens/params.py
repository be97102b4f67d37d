"""Params of the tokens stage: how many views of each train image are encoded."""

from pydantic import Field

from stages.core.params import Section
from stages.core.schemas import Affine


class Params(Section):
    """The section `tokens`."""

    views: int = Field(gt=0)  # per train image; the first is the image itself, the others are augmented
    augment: Affine
    seed: int = Field(ge=0)
