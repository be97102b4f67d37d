"""Rectified flow between an image's signal and Gaussian noise (Liu et al. 2023), as epsilon-VAE decodes with it (2025).

    s0 = gamma x0      x_t = (1 - t) s0 + t eps      v = eps - s0      s0-hat = x_t - t v      x0-hat = s0-hat / gamma

gamma < 1 lowers the signal-to-noise ratio at every t (Chen 2023). Scaling x_t as a whole would not: so the signal is
scaled, and the network sees x_t / sqrt(gamma² (1 - t)² var(x0) + t²), whose variance is 1 at every t.
Pixels x0 run from -1 to 1; images are float [B, 3, H, W], times float [B] from 0 (image) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["log", "linear"]
Output = Literal["velocity", "residual"]


@dataclass(frozen=True)
class Flow:
    """`variance` is that of the pixels x0; `residual` the share of their deviation that codes leave unknown.

    `output` says what a network gives. velocity: v itself. residual: what the best linear guess from x_t leaves of v,
    at unit variance, if s0 deviates by r = residual * gamma * sqrt(var(x0)) from a mean that the codes tell. So the
    network gives the image where t > r, the noise where t < r, and never has to copy x_t: the preconditioning of EDM
    (Karras et al. 2022; residual = 1), for images that are nearly known.
    """

    gamma: float
    variance: float
    output: Output
    residual: float

    def mix(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t."""
        return (1 - wide(t)) * self.gamma * x0 + wide(t) * noise

    def velocity(self, x0: Tensor, noise: Tensor) -> Tensor:
        """v = d x_t / d t, the same at every t."""
        return noise - self.gamma * x0

    def scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t at unit variance, as networks see it."""
        return x_t / (self.gamma**2 * (1 - wide(t)) ** 2 * self.variance + wide(t) ** 2).sqrt()

    def velocity_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """v of what a network gave for x_t; output = -(t s0 - (1 - t) r² eps) / its deviation for `residual`."""
        if self.output == "velocity":
            return output
        t, signal = wide(t), self.gamma**2 * self.variance
        r2 = signal * self.residual**2
        total = (1 - t) ** 2 * r2 + t**2
        skip = (t - (1 - t) * r2) / total
        return skip * x_t + (t**2 * signal + (1 - t) ** 2 * r2**2).sqrt() / total * output

    def clean(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x0-hat."""
        return (x_t - wide(t) * velocity) / self.gamma

    def sample(self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, times: list[float]) -> Tensor:
        """Euler steps from pure noise, x_1, along `velocity(x_t, t)` -> x0-hat."""
        x = noise
        for now, then in pairwise(times):
            x = x + (then - now) * velocity(x, x.new_full((len(x),), now))
        return x / self.gamma


def wide(t: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return t[:, None, None, None]


def time_grid(steps: int, spacing: Spacing) -> list[float]:
    """`steps` + 1 times from 1 to 0. log: rho(u) = (log m - log(u (m - n) + n)) / (log m - log n), m = 1, n = 100.

    Three steps: 1, 0.9130, 0.7657, 0. Log spacing takes small steps near the noise and the largest one last.
    """
    shares = [step / steps for step in range(steps + 1)]
    if spacing == "linear":
        return [1 - u for u in shares]
    return [log(100 - 99 * u) / log(100) for u in shares]


def draw_times(count: int, law: str, mean: float, std: float, device: torch.device) -> Tensor:
    """float [count]: times to train at. logit-normal: sigmoid of N(mean, std²) (Esser et al. 2024) | uniform."""
    if law == "uniform":
        return torch.rand(count, device=device)
    return (mean + std * torch.randn(count, device=device)).sigmoid()
