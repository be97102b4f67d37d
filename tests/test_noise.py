"""Noise of a given SNR, seeded per image, and standard errors. Run: pytest tests/test_noise.py"""

import numpy as np
import pytest
import torch
from toy_pipeline import pixels_of

from stages.studies.code_changes import METRICS, cosine, summary
from stages.studies.noise import measured_snr_db, noise_sigma, signal_power, unit_noise
from stages.studies.params import NoiseRobustness


@pytest.fixture(scope="module")
def toy(digits_toy):
    return digits_toy


def test_the_noise_is_a_function_of_seed_and_image_on_any_batch_size():
    whole = unit_noise(range(20), 8, seed=3)
    assert torch.equal(whole, torch.cat([unit_noise(range(k, k + 4), 8, seed=3) for k in range(0, 20, 4)]))
    assert torch.equal(whole[[7, 2]], unit_noise([7, 2], 8, seed=3))
    assert not torch.equal(whole, unit_noise(range(20), 8, seed=4)) and not torch.equal(whole[0], whole[1])
    many = unit_noise(range(400), 16, seed=0)
    assert abs(many.mean()) < 0.01 and abs(many.var() - 1) < 0.01


def test_the_power_is_that_of_what_varies_whatever_the_level_of_black(toy):
    pixels = pixels_of(toy, 10)
    expected = [np.mean([np.var(channel) for channel in image]) for image in pixels.double().numpy()]
    np.testing.assert_allclose(signal_power(pixels), expected, rtol=1e-5)
    shifted = pixels + torch.tensor([0.5, -1.0, 2.0])[:, None, None]
    torch.testing.assert_close(signal_power(shifted), signal_power(pixels))
    torch.testing.assert_close(signal_power(3 * pixels), 9 * signal_power(pixels))


@pytest.mark.parametrize("snr_db", [30.0, 10.0, 0.01, -5.0])
def test_the_measured_ratio_is_the_asked_one_within_a_tenth_of_a_decibel(toy, snr_db):
    pixels = pixels_of(toy, 50)
    noise = unit_noise(range(50), 16, seed=0) * noise_sigma(signal_power(pixels), snr_db)[:, None, None, None]
    assert measured_snr_db(pixels, pixels + noise).mean() == pytest.approx(snr_db, abs=0.1)
    signal, power = pixels.numpy() - pixels.numpy().mean((2, 3), keepdims=True), np.square(noise.numpy())
    assert 10 * np.log10(np.mean(signal**2) / power.mean()) == pytest.approx(snr_db, abs=0.1)


def test_the_standard_error_over_images_is_that_of_resampled_ones():
    rng = np.random.default_rng(0)
    counts = rng.integers(4, 16, (400, len(METRICS)))
    sums = rng.binomial(counts[:, None, None], 0.3, (400, 2, 1, len(METRICS)))
    settings = NoiseRobustness(snrs_db=[10.0], seeds=[0, 1], max_images=400, foreground_variance=0.01, seed=0)
    found = summary(sums.astype(float), counts.astype(float), settings)["snr_10_db"]
    picks = rng.integers(400, size=(2000, 400))
    draws = sums.mean(1)[picks, 0, 0].sum(1) / counts[picks, 0].sum(1)
    assert found["change"] == pytest.approx(0.3, abs=0.02)
    assert found["change_image_std"] == pytest.approx(draws.std(), rel=0.1)


def test_equal_vectors_have_similarity_one_even_without_length():
    features = torch.tensor([[0.0, 0.0], [0.3, 0.1], [1.0, 0.0]])
    assert cosine(features, features).tolist() == [1, 1, 1]
    assert cosine(features, torch.tensor([[1.0, 0.0], [-0.3, -0.1], [0.0, 2.0]])).tolist() == pytest.approx([0, -1, 0])
