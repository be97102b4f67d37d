"""A generator's likelihood of val codes and its spread, against closed forms. Run: pytest tests/test_likelihood.py"""

import math

import numpy as np
import pytest
import torch

from stages.generator.train import likelihood_facts
from stages.tokens.reader import Tokens

CODES, PATCHES, IMAGES = 8, 5, 1_000


class KnowsOneClass:
    """Logits of code 0 everywhere: certain for class 0, of no opinion for class 1."""

    num_codes, num_patches = CODES, PATCHES

    def __call__(self, labels_B, codes_BN, at_BN=None):
        logits = torch.zeros(len(labels_B), PATCHES, CODES)
        logits[labels_B == 0, :, 0] = 50.0
        return logits if at_BN is None else logits[at_BN]


def tokens(labels) -> Tokens:
    return Tokens(np.zeros((1, len(labels), PATCHES), np.uint16), np.asarray(labels), CODES, 2)


def facts(labels, name: str = "ar") -> dict:
    data = {"train": tokens(labels), "val": tokens(labels)}
    return likelihood_facts(KnowsOneClass(), data, name, torch.device("cpu"))


@pytest.mark.parametrize("name", ["ar", "masked"])
def test_no_opinion_costs_log_k_bits_a_code_and_does_not_vary(name):
    found = facts(np.ones(IMAGES, int), name)
    assert found["val_bits_per_image"] == pytest.approx(PATCHES * math.log2(CODES), abs=1e-3)
    assert found["val_perplexity"] == pytest.approx(CODES, abs=1e-3)
    assert found["val_bits_per_image_std"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", ["ar", "masked"])
def test_the_deviation_is_that_of_the_mean_over_images(name):
    """A quarter of the images costs 15 bits, the others none: mean 15 / 4, deviation 15 sqrt(3/16 / images)."""
    found = facts(np.arange(IMAGES) % 4 == 0, name)
    assert found["val_bits_per_image"] == pytest.approx(15 / 4, abs=1e-3)
    assert found["val_bits_per_image_std"] == pytest.approx(15 * math.sqrt(3 / 16 / IMAGES), abs=1e-3)
    nats = found["val_bits_per_image_std"] * math.log(2) / PATCHES
    assert found["val_perplexity_std"] == pytest.approx(found["val_perplexity"] * nats, abs=1e-3)
