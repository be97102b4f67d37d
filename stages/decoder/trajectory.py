"""The game of a diffusion decoder: is this the image at the end of the trajectory through x_t? (epsilon-VAE, 2025.)

The discriminator sees (x0, x_t, t) or (x0-hat, x_t, t). Non-saturating losses; R1 penalty (Mescheder et al. 2018) on
real images, with respect to x0 alone; a fixed weight. `pairs: plain` shows it x0 or x0-hat and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core.convnet import PatchDiscriminator
from stages.core.opponent import Opponent, Scalars
from stages.decoder.unet import AdaGn, TimeEmbedding

if TYPE_CHECKING:
    from stages.decoder.diffusion import TrajectoryGan


class TimedDiscriminator(nn.Module):
    """PatchGAN of two images side by side, the time by AdaGN: float [B, 3, H, W] twice, [B] -> [B, 1, H/4, W/4]."""

    def __init__(self, width: int):
        super().__init__()
        self.time = TimeEmbedding(4 * width)
        self.first = nn.Sequential(
            nn.Conv2d(6, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 4, 2, 1)
        )
        self.norm = AdaGn(2 * width, 4 * width)
        self.last = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 3, 1, 1))

    def forward(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self.last(self.norm(self.first(torch.cat([x0, x_t], 1)), self.time(t)))


class TrajectoryOpponent(Opponent):
    """Chance is log 2 for `discriminator`; 0 is a discriminator that has won."""

    betas = (0.0, 0.999)
    gan: TrajectoryGan

    def __init__(self, gan: TrajectoryGan, device: torch.device):
        timed = gan.pairs == "trajectory"
        super().__init__(TimedDiscriminator(gan.width) if timed else PatchDiscriminator(gan.width), gan, device)

    def painter_loss(self, scores: Tensor) -> Tensor:
        return F.softplus(-scores).mean()

    def losses(self, real: Tensor, made: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        real = real.detach().requires_grad_()
        scores = self.discriminator(real, *context)
        apart = 0.5 * (F.softplus(-scores).mean() + F.softplus(self.discriminator(made, *context)).mean())
        if not self.gan.r1_weight:
            return {"discriminator": apart}
        return {"discriminator": apart, "r1": 0.5 * self.gan.r1_weight * gradient_penalty(scores, real)}


def gradient_penalty(scores: Tensor, real: Tensor) -> Tensor:
    """Mean over images of |d (sum of scores) / d image|² / number of scores: R1 a patch, at any image size."""
    slope = torch.autograd.grad(scores.sum(), real, create_graph=True)[0]
    return slope.square().sum() / scores.numel()
