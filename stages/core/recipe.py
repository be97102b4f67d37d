"""What a network that paints is trained for, decoders and autoencoders alike: pixels, features, a discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.core.augment import Affine
from stages.core.loop import Optim
from stages.core.params import Section, impossible


class Gan(Section):
    """What every game with a discriminator has; weight 0 trains without one."""

    weight: float = Field(ge=0)
    start_step: int = Field(ge=0)
    width: int = Field(ge=8, multiple_of=8)
    lr: float = Field(gt=0)
    collapse_floor: float = Field(ge=0)


class HingeGan(Gan):
    """VQGAN's recipe: weighting adaptive. LlamaGen's: fixed, with a late start. stages/core/opponent.py plays both."""

    weighting: Literal["adaptive", "fixed"]
    max_adaptive: float = Field(gt=0)
    discriminator: Literal["patch", "features"]


class Painting(Section):
    """Loss = pixel_weight * L1|L2 + perceptual_weight * distance of features + gan.weight * adversarial term."""

    widths: list[int] = Field(min_length=1)  # channels a level, each after a doubling; the last at img_px
    blocks: int = Field(gt=0)  # residual blocks a level
    pixel: Literal["l1", "l2"]
    pixel_weight: float = Field(ge=0)
    perceptual_weight: float = Field(ge=0)
    perceptual_blocks: list[int] = Field(min_length=1)
    lpips_vgg16: str
    augment: Affine
    gan: Gan
    optim: Optim

    @model_validator(mode="after")
    def values_fit(self) -> Painting:
        if any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"widths = {self.widths}: expected positive multiples of 8")
        if self.gan.weight and self.gan.start_step >= self.optim.total_steps:
            never = f"expected fewer than optim.total_steps, {self.optim.total_steps}, or gan.weight = 0"
            raise ValueError(f"gan.start_step = {self.gan.start_step}: {never}")
        if self.lpips_vgg16 and (
            Path(self.lpips_vgg16).suffix != ".safetensors" or not Path(self.lpips_vgg16).is_file()
        ):
            raise ValueError(
                f"lpips_vgg16 = {self.lpips_vgg16!r}: expected '' or torchvision's VGG-16 weights as .safetensors "
                "(download vgg16-397923af.pth from download.pytorch.org/models and convert it with "
                "safetensors.torch.save_file)"
            )
        return self


class Recipe(Painting):
    """That of decoders and autoencoders of one pass: hinge losses."""

    gan: HingeGan


def check_perceptual(section: str, recipe: Painting, depth: int) -> None:
    """`UserError` if the perceptual loss asks for blocks that an encoder of `depth` blocks has not."""
    if bad := [block for block in recipe.perceptual_blocks if not 0 <= block < depth]:
        raise impossible(f"{section}.perceptual_blocks", bad, f"expected block numbers from 0 to {depth - 1}")
