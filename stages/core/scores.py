"""PSNR, and the spread of any figure by bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MIN_MSE = 1 / 12  # of rounding to integers; keeps the PSNR of equal images finite, at 58.9 dB


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], dB of each image over its three channels; at most 58.9."""
    import numpy as np

    mse = np.square(images.astype(np.float64) - others).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(mse, MIN_MSE))


def bootstrap(score: Callable[[np.ndarray], float], count: int, draws: int, seed: int) -> list[float]:
    """`score(index)` of `draws` resamplings with repetition of `count` items, the same for every score."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [score(rng.integers(0, count, count)) for _ in range(draws)]


def bootstrap_std(score: Callable[[np.ndarray], float], count: int, draws: int, seed: int) -> float:
    """The standard deviation of `bootstrap`."""
    import numpy as np

    return float(np.std(bootstrap(score, count, draws, seed), ddof=1))


def mean_and_std(name: str, values: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """{name: mean of one value an image, name_std: the bootstrap standard deviation of that mean}."""
    std = bootstrap_std(lambda index: values[index].mean(), len(values), draws, seed)
    return {name: float(values.mean()), f"{name}_std": std}
