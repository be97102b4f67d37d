"""Likelihood of val codes under a generator and its spread, against closed forms.

Run: uv run pytest tests/test_likelihood.py
"""

import math

import numpy as np
import pytest
import torch

from stages.generator import ar, masked
from stages.generator.conditions import ClassConditions
from stages.generator.likelihood import likelihood_facts
from stages.tokens.reader import Tokens

CODES, PATCHES, IMAGES = 8, 5, 1_000


class KnowsOneClass:
    """Logits of a model that is certain of code 0 for class 0 and uniform for class 1."""

    num_codes, num_patches = CODES, PATCHES

    def __call__(self, labels_B, codes_BN, at_BN=None):
        logits = torch.zeros(len(labels_B), PATCHES, CODES)
        logits[labels_B == 0, :, 0] = 50.0
        return logits if at_BN is None else logits[at_BN]


def tokens(labels) -> Tokens:
    return Tokens(np.zeros((1, len(labels), PATCHES), np.uint16), np.asarray(labels), CODES, 2)


def facts(labels, kind) -> dict:
    data = {"train": tokens(labels), "val": tokens(labels)}
    return likelihood_facts(KnowsOneClass(), data, ClassConditions(data), kind, torch.device("cpu"))


@pytest.mark.parametrize("kind", [ar, masked])
def test_uniform_logits_cost_log_k_bits_per_code_with_no_spread(kind):
    found = facts(np.ones(IMAGES, int), kind)
    assert found["val_bits_per_image"] == pytest.approx(PATCHES * math.log2(CODES), abs=1e-3)
    assert found["val_perplexity"] == pytest.approx(CODES, abs=1e-3)
    assert found["val_bits_per_image_std"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("kind", [ar, masked])
def test_the_deviation_is_that_of_the_mean_over_images(kind):
    """A quarter of the images costs 15 bits, the others none: mean 15 / 4, deviation 15 sqrt(3/16 / images)."""
    found = facts(np.arange(IMAGES) % 4 == 0, kind)
    assert found["val_bits_per_image"] == pytest.approx(15 / 4, abs=1e-3)
    assert found["val_bits_per_image_std"] == pytest.approx(15 * math.sqrt(3 / 16 / IMAGES), abs=1e-3)
    nats = found["val_bits_per_image_std"] * math.log(2) / PATCHES
    assert found["val_perplexity_std"] == pytest.approx(found["val_perplexity"] * nats, abs=1e-3)
