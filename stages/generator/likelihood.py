"""Likelihood of codes under a generator: exact for `ar`, an upper bound of -ln p for `masked`."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.distributed import linspace_indices
from stages.core.metrics import count_codes
from stages.generator.conditions import Conditions
from stages.generator.params import LIKELIHOOD_BATCH
from stages.tokens.reader import Tokens

BOUND_MASKS = 5_000  # masks drawn for the bound of kind masked: several per val image if there are fewer images


@torch.inference_mode()
def nats_per_image(
    model: Any, data: Tokens, given_of: Callable[[np.ndarray], Tensor], kind: ModuleType, device: torch.device,
    limit: int, draws: int,
) -> np.ndarray:  # fmt: skip
    """float64 [M]: -ln p of view 0 of at most `limit` images; mean over at least `draws` masks.

    `given_of`: numbers of images int64 [B] -> what the model is given of them.
    """
    rng, chosen = torch.Generator().manual_seed(0), linspace_indices(len(data.labels), limit)
    copies = min(draws, max(1, LIKELIHOOD_BATCH // len(chosen)))  # few images fill a batch several times
    filled: np.ndarray = np.tile(chosen, copies)
    parts = np.array_split(filled, math.ceil(len(filled) / LIKELIHOOD_BATCH))
    found: list[Tensor] = []
    for part in parts * math.ceil(draws / copies):
        given = given_of(part), torch.from_numpy(data.codes[0][part].astype(np.int64))
        found.append(kind.nats(model, *(tensor.to(device) for tensor in given), rng).double().cpu())
    return torch.cat(found).view(-1, len(chosen)).mean(0).numpy()


def likelihood_facts(
    model: Any, data: dict[str, Tokens], conditions: Conditions, kind: ModuleType, device: torch.device
) -> dict[str, Any]:
    """Likelihood of all val images; `_std` is the standard error of the mean over images."""
    val, codes = data["val"], model.num_patches
    draws = 1 if kind.BOUND == "exact" else max(1, BOUND_MASKS // len(val.labels))
    nats = nats_per_image(model, val, given_fn(conditions, "val"), kind, device, len(val.labels), draws)
    mean, std = float(nats.mean()), float(nats.std() / len(nats) ** 0.5)
    perplexity = math.exp(mean / codes)
    return {
        "bound": kind.BOUND,
        "val_images": len(nats),
        "val_classes": len(np.unique(val.labels[val.labels >= 0])),
        "val_nats_per_code": round(mean / codes, 6),
        "val_perplexity": round(perplexity, 4),
        "val_perplexity_std": round(perplexity * std / codes, 4),
        "val_bits_per_image": round(mean / math.log(2), 3),
        "val_bits_per_image_std": round(std / math.log(2), 3),
        "unigram_perplexity": round(unigram_perplexity(data["train"], val), 4),
    }


def given_fn(conditions: Conditions, split: str) -> Callable[[np.ndarray], Tensor]:
    """Images of a split -> what the model is given of them when it is evaluated."""
    return lambda images: conditions.given(split, conditions.of(split, images))


def unigram_perplexity(train: Tokens, val: Tokens) -> float:
    """exp of the cross-entropy of val codes under train's code frequencies, one count added to each."""
    share = count_codes(train.codes[0], train.num_codes) + 1.0
    counts = count_codes(val.codes[0], val.num_codes)
    return float(np.exp(-(counts * np.log(share / share.sum())).sum() / counts.sum()))
