"""diffusion: a flow from noise to pixels, given the codes, in one to three steps (epsilon-VAE, ICML 2025).

Loss = |v - v-hat|² + perceptual_weight * distance of features of x0-hat + gan.weight * adversarial term of x0-hat
(stages/decoder/trajectory.py) + pixel_weight * L1|L2 of x0-hat, of which the paper has none.
The curves' PSNR is that of sampled reconstructions. There is no KL term: codes are given, and discrete.

Every rung of the paper's ladder is a matter of params (path, times, conditioning, weights, gamma, spacing). Its DDPM
baseline predicts the noise, which at t = 1, where few steps start, tells no image: `path: cosine` is DDPM's process
with v as the target. The paper's optimizer is Adam with betas 0 and 0.999; here the discriminator has that, but the
painter AdamW with betas 0.9 and `optim.beta2`, and with `optim.weight_decay`, as `onestep` has, to be its equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.core import artefact
from stages.core.choice import evenly
from stages.core.distributed import share_of, world_size
from stages.core.errors import UserError
from stages.core.loop import check_shares
from stages.core.params import Machine, Section
from stages.core.recipe import Gan, Painting, check_perceptual
from stages.data.reader import ImageSplit
from stages.decoder.sources import Sources
from stages.decoder.training import Players, check_grid, facts_of, fit_painter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.core.opponent import Painted
    from stages.encoder.model import Encoder

MEASURED = 4096  # images behind the pixels' variance


class FlowParams(Section):
    """stages/decoder/flow.py says what they mean; the variance of pixels is measured."""

    gamma: float = Field(gt=0)
    output: Literal["velocity", "residual"]
    residual: float = Field(gt=0, le=1)
    path: Literal["rectified", "cosine"]
    times: Literal["logit-normal", "uniform"]
    time_mean: float
    time_std: float = Field(gt=0)


class Sampling(Section):
    """How images are drawn; the artefact remembers it."""

    steps: int = Field(gt=0)
    spacing: Literal["log", "linear"]


class TrajectoryGan(Gan):
    """weight 0 trains without a discriminator."""

    pairs: Literal["trajectory", "plain"]
    r1_weight: float = Field(ge=0)


class Params(Painting):
    kind: Literal["diffusion"]
    conditioning: Literal["concat", "adagn"]
    flow: FlowParams
    sampling: Sampling
    gan: TrajectoryGan


def check(section: str, sources: Sources, params: Params) -> None:
    """Sizes that do not fit are errors before anything heavy is imported."""
    check_shares(f"{section}.optim", params.optim)
    check_grid(sources)
    check_perceptual(section, params, artefact.read_config(sources.encoder, "encoder")["depth"])


def fit(name: str, sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the decoder artefact `out`; curves, last scores and pictures go to the folder `report`."""
    from stages.decoder.trajectory import TrajectoryOpponent
    from stages.decoder.velocity import build

    facts = facts_of(name, sources, params, params.kind)

    def invite(vectors_KD: Tensor, encoder: Encoder, device: torch.device) -> Players:
        variance = pixel_variance(ImageSplit(sources.images, "train", machine.num_workers), machine.infer_batch_size)
        own = {
            "conditioning": params.conditioning,
            "flow": {**params.flow.model_dump(include={"gamma", "output", "residual", "path"}), "variance": variance},
            "sampling": params.sampling.model_dump(),
        }
        network = build(vectors_KD, {**facts, **own}).to(device)
        return Players(network, TrajectoryOpponent(params.gan, device), paint, own)

    def paint(painter: Any, pixels: Tensor, codes: Tensor) -> Painted:
        return denoise(painter, pixels, codes, params) if painter.training else sample(painter, pixels, codes, params)

    fit_painter(facts, sources, out, report, params, machine, invite)


def denoise(network: Any, pixels: Tensor, codes: Tensor, params: Params) -> Painted:
    """x0-hat from one noisy image each, at a time drawn for it, and the loss of its velocity.

    Times and noise are drawn for all processes' images, so that their number changes neither.
    """
    import torch

    from stages.core.opponent import Painted
    from stages.decoder.flow import draw_times

    flow, law = network.flow, params.flow
    count = len(pixels) * world_size()
    t = share_of(draw_times(count, law.times, law.time_mean, law.time_std, pixels.device))
    noise = share_of(torch.randn(count, *pixels.shape[1:], device=pixels.device))
    x_t = flow.mix(pixels, noise, t)
    velocity = network(x_t, t, codes)
    score = (velocity - flow.velocity(pixels, noise, t)).square().mean()
    seen = (flow.scaled(x_t, t), t) if params.gan.pairs == "trajectory" else ()
    return Painted(flow.clean(x_t, velocity, t), score, {"score": score.detach()}, seen)


def sample(network: Any, pixels: Tensor, codes: Tensor, params: Params) -> Painted:
    """Images as the trained decoder would draw them without a generator."""
    from stages.core.opponent import Painted
    from stages.decoder.noise import normal, seeds_of

    noise = normal(seeds_of(codes, None), tuple(pixels.shape[1:]), pixels.device)
    return Painted(network.sample(codes, noise, **params.sampling.model_dump()), pixels.new_zeros(()))


def pixel_variance(train: ImageSplit, batch_size: int) -> float:
    """Of all values of at most MEASURED images, evenly spread, from -1 to 1: exact, since there are 256 of them."""
    import numpy as np

    rows, counts = evenly(len(train), MEASURED), np.zeros(256, np.int64)
    for start in range(0, len(rows), batch_size):
        counts += np.bincount(train.read(rows[start : start + batch_size]).ravel(), minlength=256)
    values, share = np.arange(256) / 127.5 - 1, counts / counts.sum()
    variance = float((share * values**2).sum() - (share * values).sum() ** 2)
    if variance < 1e-6:
        raise UserError(
            f"the train images have one colour alone (variance of pixels {variance:.1g}): nothing to decode"
        )
    return variance
