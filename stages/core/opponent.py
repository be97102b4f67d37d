"""What a painter plays against: a discriminator, its optimizer, the losses of both sides, and the guards on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.core import distributed
from stages.core.convnet import PatchDiscriminator, hinge_discriminator
from stages.core.loop import backward
from stages.core.losses import CollapseGuard, adaptive_weight, finite_nudge

if TYPE_CHECKING:
    from stages.core.recipe import Gan, HingeGan, Recipe

Scalars = dict[str, Tensor]


@dataclass(frozen=True)
class Painted:
    """One batch as painted: pixels [B, 3, H, W], a further loss of the painter, scalars for the curves.

    `context` is what the discriminator sees beside the pixels, of real and of painted ones alike.
    """

    made: Tensor
    loss: Tensor
    scalars: Scalars = field(default_factory=dict)
    context: tuple[Tensor, ...] = ()


class Opponent(ABC):
    """`discriminator(pixels, *context)` gives scores [B, ...], high for real; a kind of game defines the losses."""

    betas = (0.5, 0.9)

    def __init__(self, discriminator: nn.Module, gan: Gan, device: torch.device):
        self.discriminator, self.gan = discriminator.to(device), gan
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=gan.lr, betas=self.betas, fused=True)
        self.guard = CollapseGuard(gan.collapse_floor, device)

    @abstractmethod
    def painter_loss(self, scores: Tensor) -> Tensor:
        """What the painter minimises, of the scores of what it made."""

    @abstractmethod
    def losses(self, real: Tensor, made: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        """What the discriminator minimises the sum of: {"discriminator": how badly it tells the two apart, …}."""

    def weigh(self, loss: Tensor, nudge: Tensor) -> Scalars:
        """{"adaptive": factor of the adversarial term}, or nothing where its weight is fixed."""
        return {}

    def playing(self, step: int) -> bool:
        """Whether the game is on."""
        return self.gan.weight > 0 and step >= self.gan.start_step

    def push(self, painted: Painted, loss: Tensor) -> tuple[Tensor, Scalars]:
        """The painter's adversarial term, beside its other `loss`, and scalars for the curves."""
        adversarial = self.painter_loss(self.discriminator(painted.made, *painted.context))
        nudge = finite_nudge(adversarial, painted.made)
        factors = self.weigh(loss, nudge)
        term = self.gan.weight * self.guard.gate() * factors.get("adaptive", 1.0) * nudge
        return term, {"adversarial": adversarial.detach(), **factors}

    def step(self, real: Tensor, painted: Painted, clip_norm: float) -> Scalars:
        """One update of the discriminator; a non-finite one is left out and counts as a collapse."""
        losses = self.losses(real, painted.made.detach(), painted.context)
        self.optimizer.zero_grad()
        _, norm = backward(torch.stack([*losses.values()]).sum(), self.discriminator, clip_norm)
        seen = {name: loss.detach() for name, loss in losses.items()}
        distributed.average([*seen.values()])
        self.guard.see(seen["discriminator"])
        if bool(norm.isfinite()):  # waits for the device once a step: of Adam's state, too, nothing may be lost
            self.optimizer.step()
        return seen


class HingeOpponent(Opponent):
    """Hinge losses; the weight times VQGAN's adaptive factor, or fixed as in LlamaGen.

    `last_layer` is the weight at which the adaptive factor is measured, `encoder` the frozen one of the features.
    """

    gan: HingeGan

    def __init__(self, recipe: Recipe, last_layer: Tensor, encoder: nn.Module, device: torch.device):
        super().__init__(discriminator_of(recipe, encoder), recipe.gan, device)
        self.last_layer = last_layer

    def painter_loss(self, scores: Tensor) -> Tensor:
        return -scores.mean()

    def losses(self, real: Tensor, made: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        apart = hinge_discriminator(self.discriminator(real, *context), self.discriminator(made, *context))
        return {"discriminator": apart}

    def weigh(self, loss: Tensor, nudge: Tensor) -> Scalars:
        if self.gan.weighting == "fixed":
            return {}
        return {"adaptive": adaptive_weight(loss, nudge, self.last_layer, self.gan.max_adaptive)}


class FeatureDiscriminator(nn.Module):
    """A small head a block on a frozen encoder's patch features (projected GANs, Sauer et al. 2021).

    `features(pixels)` gives float [B, N, D] a block. A plain function: a checkpoint holds the heads alone.
    """

    def __init__(self, features: Callable[[Tensor], list[Tensor]], dim: int, blocks: int, width: int):
        super().__init__()
        self.features = features
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)) for _ in range(blocks)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] -> scores [B, N, blocks]."""
        found = self.features(pixels)
        return torch.cat([head(feat_BND) for head, feat_BND in zip(self.heads, found, strict=True)], -1)


def discriminator_of(recipe: Recipe, encoder: Any) -> nn.Module:
    """The discriminator that `gan.discriminator` names; that of features looks at the perceptual blocks."""
    if recipe.gan.discriminator == "patch":
        return PatchDiscriminator(recipe.gan.width)
    blocks = recipe.perceptual_blocks

    def features(pixels: Tensor) -> list[Tensor]:
        return encoder(pixels, blocks=blocks, final_norm=True)

    return FeatureDiscriminator(features, encoder.dim, len(blocks), recipe.gan.width)
