"""PSNR, bootstrap spreads, codebook usage, the check of given codes, the dtype of stored ones, and images per class.

NumPy only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import UserError

FEW_LIVE = 0.5  # of a tokenizer's codes; where fewer occur, console and report warn
MIN_MSE = 1 / 12  # of rounding to integers; keeps the PSNR of equal images finite, at 58.9 dB


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] twice -> float64 [B], dB per image over its three channels; at most 58.9."""
    mse = np.square(images.astype(np.float64) - others).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(mse, MIN_MSE))


def bootstrap(score: Callable[[np.ndarray], float], count: int, draws: int, seed: int) -> list[float]:
    """`score(index)` on `draws` resamplings of `count` items with repetition; `seed` alone decides on them."""
    rng = np.random.default_rng(seed)
    return [score(rng.integers(0, count, count)) for _ in range(draws)]


def bootstrap_std(score: Callable[[np.ndarray], float], count: int, draws: int, seed: int) -> float:
    """The standard deviation of `bootstrap`."""
    return float(np.std(bootstrap(score, count, draws, seed), ddof=1))


def mean_and_std(name: str, values: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """{name: mean of one value per image, name_std: the bootstrap standard deviation of that mean}."""
    std = bootstrap_std(lambda index: values[index].mean(), len(values), draws, seed)
    return {name: float(values.mean()), f"{name}_std": std}


def usage(counts: np.ndarray) -> dict[str, float]:
    """Usage metrics from the counts of K codes, int [K].

    `live_codes`: codes that occur, `live_fraction` = live_codes / K; entropy in nats, at most ln K;
    perplexity = exp(entropy), K for uniform use, 1 for a single code.
    """
    share = counts[counts > 0] / counts.sum()
    entropy = float(max(0.0, -(share * np.log(share)).sum()))
    live = int((counts > 0).sum())
    return {
        "live_codes": live,
        "live_fraction": live / len(counts),
        "entropy_nats": entropy,
        "perplexity": float(np.exp(entropy)),
    }


def few_live(live: int, num_codes: int) -> str:
    """Such as "13 of 4,096 codes (0.32 %)" where fewer than FEW_LIVE of the codes occur, else ""."""
    return f"{live:,} of {num_codes:,} codes ({100 * live / num_codes:.2g} %)" if live < FEW_LIVE * num_codes else ""


def bags(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """codes [M, N] -> float32 [M, num_codes]: share of the positions per code; rows sum to 1."""
    flat = np.arange(len(codes))[:, None] * num_codes + checked_codes(codes, num_codes)
    counts = np.bincount(flat.ravel(), minlength=len(codes) * num_codes)
    return (counts / codes.shape[1]).astype(np.float32).reshape(len(codes), num_codes)


def code_dtype(num_codes: int) -> str:
    """uint16 holds up to 65,536 codes, uint32 the rest."""
    return "uint16" if num_codes <= 2**16 else "uint32"


def count_codes(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """int64 [num_codes]: how often each code occurs in codes [images, N], which may be a memory map."""
    counts = np.zeros(num_codes, np.int64)
    for start in range(0, len(codes), 10_000):
        counts += np.bincount(checked_codes(codes[start : start + 10_000], num_codes).ravel(), minlength=num_codes)
    return counts


def count_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [num_classes]: how many of the labels int64 [images] are each class; -1 is none."""
    return np.bincount(labels[labels >= 0], minlength=num_classes)


def count_train(folder: Path, labels: np.ndarray, classes: list[str]) -> list[int]:
    """Train images of each class; `UserError` for a class without any, of which nothing could be learned."""
    counts = count_classes(labels, len(classes)).tolist()
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        named = ", ".join(map(repr, missing[:20])) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise UserError(f"{folder}: no train image of class {named}, of {len(classes)} classes. Run `dvc repro data`.")
    return counts


def checked_codes(codes: Any, num_codes: int) -> np.ndarray:
    """An array, torch tensor or nested list of any integer type [...] -> int64 [...].

    `UserError` with the first value that is no integer from 0 to num_codes - 1.
    """
    expected = f"expected integers from 0 to {num_codes - 1}"
    if hasattr(codes, "detach"):  # a torch tensor; NumPy has no bfloat16
        codes = codes.detach().cpu().float() if codes.is_floating_point() else codes.detach().cpu()
    try:
        found = np.asarray(codes)
    except (TypeError, ValueError) as error:  # such as lists of different lengths
        raise UserError(f"codes: {error}: {expected}") from None
    integers = found.dtype.kind in "iu"
    wrong = (found < 0) | (found >= num_codes) if integers else np.ones(found.shape, bool)
    if np.any(wrong):
        raise UserError(f"codes: {found[wrong][0]!s} ({found.dtype}): {expected}")
    return found.astype(np.int64)
