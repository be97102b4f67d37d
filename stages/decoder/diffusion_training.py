"""Training of diffusion decoders on a frozen tokenizer's codes, with a discriminator on the trajectory.

Loss = |v - v-hat|² + perceptual_weight * feature distance of x0-hat + gan.weight * adversarial loss of x0-hat
+ pixel_weight * L1|L2 of x0-hat, the last one not in the paper. There is no KL term: the codes are discrete and given.

Every ablation of the paper is a matter of params: path, times, conditioning, weights, gamma, spacing. Its DDPM baseline
predicts the noise. Noise prediction is uninformative at t = 1, where few-step samplers start; `path: cosine` is DDPM's
process with v-prediction. The paper trains with Adam, betas 0 and 0.999. Here only the discriminator does so. The
decoder uses AdamW with betas 0.9 and `optim.beta2`, as onestep does, so that the two are comparable.
"""

from functools import partial
from math import log

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import UserError
from stages.core.discriminator import AdversarialLoss, PatchDiscriminator, Reconstruction, Scalars
from stages.core.distributed import linspace_indices, num_shares, share_of
from stages.core.params import Machine
from stages.data.reader import ImageSplit
from stages.decoder import training
from stages.decoder.decoder import normal, seeds_of
from stages.decoder.diffusion import VelocityNetwork, build
from stages.decoder.flow import draw_times
from stages.decoder.params import DiffusionParams, Inputs, TrajectoryGan
from stages.decoder.unet import AdaGn, TimeEmbedding

VARIANCE_IMAGES = 4096  # images behind the measured variance of the pixels
check = training.check


def fit(inputs: Inputs, params: DiffusionParams, machine: Machine) -> None:
    """Write the decoder artifact and its report."""
    config = training.network_config(inputs, params.kind, params)
    setup = training.load_setup(inputs, params, machine)
    variance = pixel_variance(setup.splits["train"], machine.infer_batch_size)
    config |= {
        "conditioning": params.conditioning,
        "flow": {**params.flow.model_dump(include={"gamma", "output", "residual", "path"}), "variance": variance},
        "sampling": params.sampling.model_dump(),
    }
    network = build(setup.vectors, config).to(setup.device)
    adversarial = TrajectoryAdversarialLoss(params.gan, setup.device)
    training.train(setup, config, network, adversarial, partial(reconstruct, params=params))


def reconstruct(network: VelocityNetwork, pixels: Tensor, codes_BN: Tensor, params: DiffusionParams) -> Reconstruction:
    """One denoising step while training; otherwise sampled images, of which the curves show the PSNR."""
    if network.training:
        return denoise(network, pixels, codes_BN, params)
    noise = normal(seeds_of(codes_BN, None), tuple(pixels.shape[1:]), pixels.device)
    return Reconstruction(network.sample(codes_BN, noise, **params.sampling.model_dump()), pixels.new_zeros(()))


def denoise(network: VelocityNetwork, pixels: Tensor, codes_BN: Tensor, params: DiffusionParams) -> Reconstruction:
    """x0-hat from one noisy version of each image, at a random time, and the velocity loss |v - v-hat|².

    Every process draws times and noise for the whole batch, so that results do not depend on the number of processes.
    """
    flow, law = network.flow, params.flow
    count = len(pixels) * num_shares()
    t = share_of(draw_times(count, law.times, law.time_mean, law.time_std, pixels.device))
    noise = share_of(torch.randn(count, *pixels.shape[1:], device=pixels.device))
    x_t = flow.mix(pixels, noise, t)
    velocity = network(x_t, t, codes_BN)
    loss = (velocity - flow.velocity(pixels, noise, t)).square().mean()
    context = (flow.scaled(x_t, t), t) if params.gan.context == "trajectory" else ()
    return Reconstruction(flow.clean(x_t, velocity, t), loss, {"score": loss.detach()}, context)


def pixel_variance(train: ImageSplit, batch_size: int) -> float:
    """Variance of all pixel values, in [-1, 1], of at most VARIANCE_IMAGES evenly spaced images.

    Exact: it comes from the histogram of the 256 possible values.
    """
    indices, counts = linspace_indices(len(train), VARIANCE_IMAGES), np.zeros(256, np.int64)
    for start in range(0, len(indices), batch_size):
        counts += np.bincount(train.read(indices[start : start + batch_size]).ravel(), minlength=256)
    values, share = np.arange(256) / 127.5 - 1, counts / counts.sum()
    variance = float((share * values**2).sum() - (share * values).sum() ** 2)
    if variance < 1e-6:
        raise UserError(f"the train images have a single color (variance of pixels {variance:.1g}): nothing to decode")
    return variance


class TimedDiscriminator(nn.Module):
    """PatchGAN on two concatenated images, the time by AdaGN."""

    def __init__(self, width: int):
        super().__init__()
        self.time = TimeEmbedding(4 * width)
        self.first = nn.Sequential(
            nn.Conv2d(6, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 4, 2, 1)
        )
        self.norm = AdaGn(2 * width, 4 * width)
        self.last = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 3, 1, 1))

    def forward(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """float [B, 3, H, W] twice, float [B] -> scores float [B, 1, H/4, W/4]."""
        return self.last(self.norm(self.first(torch.cat([x0, x_t], 1)), self.time(t)))


class TrajectoryAdversarialLoss(AdversarialLoss):
    """Non-saturating GAN loss with a fixed weight and R1 penalty on real images, with respect to x0 alone.

    The discriminator gets (x0, x_t, t) or (x0-hat, x_t, t) and decides whether the image is the real end of the
    trajectory through x_t. With `gan.context: plain` it gets x0 or x0-hat alone. Its loss is log 2 at chance.
    """

    betas = (0.0, 0.999)
    chance = log(2)
    gan: TrajectoryGan

    def __init__(self, gan: TrajectoryGan, device: torch.device):
        timed = gan.context == "trajectory"
        super().__init__(TimedDiscriminator(gan.width) if timed else PatchDiscriminator(gan.width), gan, device)

    def generator_loss(self, scores: Tensor) -> Tensor:
        return F.softplus(-scores).mean()

    def discriminator_losses(self, real: Tensor, fake: Tensor, context: tuple[Tensor, ...]) -> Scalars:
        real = real.detach().requires_grad_()
        scores = self.discriminator(real, *context)
        loss = 0.5 * (F.softplus(-scores).mean() + F.softplus(self.discriminator(fake, *context)).mean())
        if not self.gan.r1_weight:
            return {"discriminator": loss}
        return {"discriminator": loss, "r1": 0.5 * self.gan.r1_weight * r1_penalty(scores, real)}


def r1_penalty(scores: Tensor, real: Tensor) -> Tensor:
    """R1 per patch (Mescheder et al. 2018): batch sum of |d (sum of scores) / d image|² / number of scores."""
    gradient = torch.autograd.grad(scores.sum(), real, create_graph=True)[0]
    return gradient.square().sum() / scores.numel()
