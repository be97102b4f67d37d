"""Discriminators, the losses of both sides of a GAN, and protection against a discriminator that wins or fails."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.distributed import micro_batch
from stages.core.hardware import Loss, average, whole_gradients
from stages.core.optimizer import Adam, Scalars, clip, mean_of
from stages.core.schemas import Gan, HingeGan, HingeLossConfig

# Times chance. In tests/test_decoder.py a discriminator that learns stays below 1.03; one with a learning rate of 0.5
# is at 1.7 on average, on digits at 9.
CEILING = 1.25
MOST = 5.0  # times chance; a larger loss counts as this, so that no spike closes the gate for long


@dataclass(frozen=True)
class Reconstruction:
    """One reconstructed batch: pixels [B, 3, H, W], a further loss of the network, scalars for the curves.

    `context` holds further inputs of the discriminator, the same for real and for reconstructed images.
    """

    pixels: Tensor
    loss: Tensor
    scalars: Scalars = field(default_factory=dict)
    context: tuple[Tensor, ...] = ()


class AdversarialLoss(ABC):
    """A discriminator with its optimizer; subclasses define the losses.

    `discriminator(pixels, *context)` gives scores [B, ...], high for real images. `chance` is its classification loss
    where it scores all images 0.
    """

    betas = (0.5, 0.9)
    adaptive = False  # True: the weight of the term follows gradients of the whole batch
    chance: float

    def __init__(self, discriminator: nn.Module, gan: Gan, device: torch.device):
        self.discriminator, self.gan = discriminator.to(device), gan
        self.optimizer = Adam(self.discriminator.parameters(), lr=gan.lr, betas=self.betas, fused=True)
        self.loss_of: nn.Module = Loss(self.discriminator, lambda _, *inputs: self.discriminator_losses(*inputs))
        self.gate = DiscriminatorGate(gan.disc_loss_floor, self.chance, device)

    @abstractmethod
    def generator_loss(self, scores: Tensor) -> Tensor:
        """What the network minimizes, from the scores of its reconstructions."""

    @abstractmethod
    def discriminator_losses(self, real: Tensor, fake: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        """What the discriminator minimizes the sum of: {"discriminator": its classification loss, …}."""

    def layer_gradients(self, loss: Tensor, term: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of the other losses and of the term, for `adaptive_weight`; None where the weight is fixed."""
        return None

    def adaptive_factor(self, gradients: tuple[Tensor, Tensor] | None) -> Scalars:
        """{"adaptive": factor of the adversarial term}, or nothing where the weight is fixed."""
        return {}

    def bounded_term(self, fake: Reconstruction) -> tuple[Tensor, Tensor]:
        """The loss of the network from the scores of its reconstructions, and the term that carries its gradient."""
        adversarial = self.generator_loss(self.discriminator(fake.pixels, *fake.context))
        return adversarial.detach(), bounded(adversarial, fake.pixels)

    def term(self, fake: Reconstruction, loss: Tensor, factors: Scalars | None = None) -> tuple[Tensor, Scalars]:
        """The adversarial term of the network, beside its other `loss`, and scalars for the curves.

        `factors` are those of the whole batch, where `fake` is one of its micro-batches.
        """
        adversarial, term = self.bounded_term(fake)
        if factors is None:
            factors = self.adaptive_factor(self.layer_gradients(loss, term))
        weighted = self.gan.weight * self.gate.open() * factors.get("adaptive", 1.0) * term
        return weighted, {"adversarial": adversarial, "adversarial_off": self.gate.off_share(), **factors}

    def step(self, batches: list[tuple[Tensor, Reconstruction]], clip_norm: float) -> Scalars:
        """One optimizer step of the discriminator on micro-batches of real pixels and their reconstructions.

        It is skipped if a gradient is not finite; `gate` gets the loss anyway.
        """
        self.optimizer.zero_grad()
        results = []
        for number, (real, fake) in enumerate(batches):
            with micro_batch(number, len(batches)), whole_gradients(self.loss_of, last=number + 1 == len(batches)):
                losses = self.loss_of(real, fake.pixels.detach(), fake.context)
                (torch.stack([*losses.values()]).sum() / len(batches)).backward()
            results.append({name: loss.detach() for name, loss in losses.items()})
        norm, scalars = clip(self.discriminator, clip_norm), mean_of(results)
        average([*scalars.values()])
        self.gate.update(scalars["discriminator"])
        if bool(norm.isfinite()):  # waits for the device once per step, because Adam's state must stay finite, too
            self.optimizer.step()
        return scalars


def bounded(adversarial: Tensor, pixels: Tensor) -> Tensor:
    """A term with the gradient of `adversarial` with respect to `pixels`, clamped to ±1, non-finite entries set to 0.

    Thus a broken discriminator propagates no NaN or overflow. Ordinary entries are far below 1, because `adversarial`
    is a mean over a batch of images.
    """
    gradient = torch.autograd.grad(adversarial, pixels)[0].nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)
    return (pixels * gradient.detach()).sum()


def adaptive_weight(of_loss: Tensor, of_term: Tensor, limit: float) -> Tensor:
    """|d reconstruction| / |d adversarial| at the last layer, in [0, limit] (VQGAN, Esser et al. 2021, eq. 7).

    Both gradients become those of the whole batch: their mean over all processes.
    """
    average([of_loss, of_term])
    return (of_loss.norm() / (of_term.norm() + 1e-4)).nan_to_num(nan=0.0, posinf=limit).clamp(0, limit).detach()


class DiscriminatorGate:
    """Switches the adversarial term off while the averaged loss of the discriminator is at most `floor`, or above
    CEILING times `chance`.

    A discriminator that separates perfectly has no useful gradient and drives the decoder into artifacts. One that is
    worse than chance is broken, or chases images that its last step has scored too high: its gradient is noise.
    """

    def __init__(self, floor: float, chance: float, device: torch.device):
        self.floor, self.chance = floor, chance
        self.average, self.closed = torch.full((), chance, device=device), torch.zeros((), device=device)
        self.steps = 0  # of the network since the discriminator's start; `closed` of them had no adversarial term

    def update(self, discriminator_loss: Tensor) -> None:
        """Update the average over about 50 steps; a non-finite loss counts as MOST times chance."""
        most = MOST * self.chance
        loss = discriminator_loss.detach().float().nan_to_num(most, most).clamp(0, most)
        self.average = self.average.lerp(loss, 0.02)

    def open(self) -> Tensor:
        """1 while the adversarial term counts, else 0."""
        return ((self.average > self.floor) & (self.average <= CEILING * self.chance)).float()

    def count(self) -> None:
        """Count one more step of the network."""
        self.steps, self.closed = self.steps + 1, self.closed + 1 - self.open()

    def off_share(self) -> Tensor:
        """Scalar: the share of the counted steps without the adversarial term."""
        return self.closed / max(1, self.steps)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"average": float(self.average), "closed": float(self.closed), "steps": self.steps}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from `state`."""
        self.average, self.closed = (self.average.new_tensor(state[name]) for name in ("average", "closed"))
        self.steps = int(state["steps"])


class HingeAdversarialLoss(AdversarialLoss):
    """Hinge losses; the weight is multiplied by VQGAN's adaptive factor, or fixed as in LlamaGen.

    The adaptive factor is measured at `last_layer`, a weight; `encoder` is the frozen network of
    `gan.discriminator: features`.
    """

    chance = 1.0
    gan: HingeGan

    def __init__(self, config: HingeLossConfig, last_layer: Tensor, encoder: nn.Module, device: torch.device):
        super().__init__(make_discriminator(config, encoder), config.gan, device)
        self.last_layer, self.adaptive = last_layer, config.gan.weighting == "adaptive"

    def generator_loss(self, scores: Tensor) -> Tensor:
        return -scores.mean()

    def discriminator_losses(self, real: Tensor, fake: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        loss = hinge_discriminator(self.discriminator(real, *context), self.discriminator(fake, *context))
        return {"discriminator": loss}

    def layer_gradients(self, loss: Tensor, term: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.adaptive:
            return None
        of_loss, of_term = (torch.autograd.grad(one, self.last_layer, retain_graph=True)[0] for one in (loss, term))
        return of_loss, of_term

    def adaptive_factor(self, gradients: tuple[Tensor, Tensor] | None) -> Scalars:
        return {"adaptive": adaptive_weight(*gradients, self.gan.max_adaptive)} if gradients else {}


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of relu(1 - D(real)) and relu(1 + D(fake))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


class PatchDiscriminator(nn.Module):
    """Strided convolutions to one score per patch of pixels (PatchGAN, Isola et al. 2017)."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] -> scores float [B, 1, H/4, W/4]."""
        return self.layers(pixels)


class FeatureDiscriminator(nn.Module):
    """A small head per block on a frozen encoder's patch features (projected GANs, Sauer et al. 2021).

    `features(pixels)` gives float [B, N, D] per block: a plain function, so that checkpoints hold the heads alone.
    `dims`: the D of each block.
    """

    def __init__(self, features: Callable[[Tensor], list[Tensor]], dims: list[int], width: int):
        super().__init__()
        self.features = features
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)) for dim in dims
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] -> scores [B, patches of all blocks]."""
        found = self.features(pixels)
        return torch.cat([head(feat_BND).flatten(1) for head, feat_BND in zip(self.heads, found, strict=True)], 1)


def make_discriminator(config: HingeLossConfig, encoder: Any) -> nn.Module:
    """The discriminator that `gan.discriminator` names; `features` reads the perceptual blocks of the encoder."""
    if not config.gan.reads_features:
        return PatchDiscriminator(config.gan.width)
    blocks = config.perceptual_blocks

    def features(pixels: Tensor) -> list[Tensor]:
        return encoder(pixels, blocks=blocks, final_norm=True)

    return FeatureDiscriminator(features, [encoder.maps[block][1] for block in blocks], config.gan.width)
