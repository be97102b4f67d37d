"""A flow between images and Gaussian noise, as epsilon-VAE decodes with (Zhao et al., ICML 2025).

    s0 = gamma x0     x_t = a s0 + b eps     v = p eps - q s0     s0-hat = p x_t - b v     eps-hat = q x_t + a v

    path       a            b            p  q   a step keeps s0-hat and eps-hat: x_t' = a' s0-hat + b' eps-hat
    rectified  1 - t        t            1  1   Euler step along v = dx_t/dt (rectified flow, Liu et al. 2023)
    cosine     cos(pi t/2)  sin(pi t/2)  a  b   DDIM step (Song et al. 2021), DDPM's process; v: Salimans and Ho (2022)

gamma < 1 lowers the signal-to-noise ratio at every t (Chen 2023), because it scales the signal and not the noise. The
network's input is x_t / sqrt(gamma² a² var(x0) + b²), which has variance 1 at every t.
Pixels x0 are in [-1, 1]; images are float [B, 3, H, W], times float [B] from 0 (image) to 1 (noise).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log, pi

import torch
from torch import Tensor

from stages.decoder.params import FlowOutput, FlowPath, StepSpacing


@dataclass(frozen=True)
class Flow:
    """`variance`: of the pixels x0. `residual`: share of their standard deviation that the codes leave unknown.

    `output` is the meaning of the network's output. velocity: v itself. residual: what the best linear guess from x_t
    leaves of v, at unit variance, if s0 has standard deviation r = residual * gamma * sqrt(var(x0)) around a mean that
    the codes determine. Then the network predicts the image where b > r a and the noise where b < r a, and never has to
    copy x_t. This is EDM's preconditioning (Karras et al. 2022; residual = 1) for images that are nearly known.
    """

    gamma: float
    variance: float
    output: FlowOutput
    residual: float
    path: FlowPath

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, [B, 1, 1, 1]."""
        t = t[:, None, None, None]
        return (1 - t, t) if self.path == "rectified" else ((t * pi / 2).cos(), (t * pi / 2).sin())

    def velocity_coefficients(self, t: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """p and q; a p + b q = 1 on either path."""
        return (1.0, 1.0) if self.path == "rectified" else self.coefficients(t)

    def mix(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t."""
        a, b = self.coefficients(t)
        return a * self.gamma * x0 + b * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v."""
        p, q = self.velocity_coefficients(t)
        return p * noise - q * self.gamma * x0

    def scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t at unit variance, the network's input."""
        a, b = self.coefficients(t)
        return x_t / (self.gamma**2 * a**2 * self.variance + b**2).sqrt()

    def velocity_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """v from the network's output at x_t; for `residual`, output = -(b s0 - a r² eps) / its deviation."""
        if self.output == "velocity":
            return output
        (a, b), (p, q) = self.coefficients(t), self.velocity_coefficients(t)
        signal = self.gamma**2 * self.variance
        r2 = signal * self.residual**2
        total = a**2 * r2 + b**2
        skip = (p * b - q * a * r2) / total
        return skip * x_t + (b**2 * signal + a**2 * r2**2).sqrt() / total * output

    def ends(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """s0-hat and eps-hat, the two ends of the trajectory through x_t."""
        (a, b), (p, q) = self.coefficients(t), self.velocity_coefficients(t)
        return p * x_t - b * velocity, q * x_t + a * velocity

    def clean(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x0-hat."""
        return self.ends(x_t, velocity, t)[0] / self.gamma

    def sample(self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, times: list[float]) -> Tensor:
        """x0-hat after one step per pair of successive `times`, from the noise x_1; `velocity(x_t, t)` predicts v."""
        x = noise
        for now, then in pairwise(noise.new_full((len(noise),), time) for time in times):
            signal, rest = self.ends(x, velocity(x, now), now)
            a, b = self.coefficients(then)
            x = a * signal + b * rest
        return x / self.gamma


def time_grid(steps: int, spacing: StepSpacing) -> list[float]:
    """`steps` + 1 times from 1 to 0. log: rho(u) = (log m - log(u (m - n) + n)) / (log m - log n), m = 1, n = 100.

    Three steps: 1, 0.9130, 0.7657, 0. Log spacing takes small steps near the noise and the largest one last.
    """
    shares = [step / steps for step in range(steps + 1)]
    if spacing == "linear":
        return [1 - u for u in shares]
    return [log(100 - 99 * u) / log(100) for u in shares]


def draw_times(count: int, distribution: str, mean: float, std: float, device: torch.device) -> Tensor:
    """float [count], training times. logit-normal: sigmoid of N(mean, std²) (Esser et al. 2024) | uniform."""
    if distribution == "uniform":
        return torch.rand(count, device=device)
    return (mean + std * torch.randn(count, device=device)).sigmoid()
