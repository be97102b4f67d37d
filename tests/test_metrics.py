"""Metrics against formulas and brute force. Run: pytest tests/test_metrics.py"""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from stages.core.metrics import bootstrap_std, psnr, usage
from stages.evaluate import metrics
from stages.evaluate.frechet import Gaussian, distance, fid
from stages.evaluate.neighbors import distance_metrics, knn_radii, nearest
from stages.evaluate.rows import StoredRows


def noisy_pair(count: int = 3, px: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, px, px, 3), dtype=np.uint8)
    return images, np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error():
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    assert psnr(images, images + np.uint8(5)) == pytest.approx([20 * math.log10(255 / 5)] * 2)


def test_psnr_of_equal_images_is_finite_and_the_highest():
    images, others = noisy_pair()
    assert psnr(images, images) == pytest.approx([10 * math.log10(255**2 * 12)] * 3)
    assert (psnr(images, others) < psnr(images, images)).all()


def ssim_by_hand(image: np.ndarray, other: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004, window by window."""
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        for top in range(image.shape[0] - 10):
            for left in range(image.shape[1] - 10):
                x = image[top : top + 11, left : left + 11, channel].astype(float)
                y = other[top : top + 11, left : left + 11, channel].astype(float)
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_ssim_equals_brute_force():
    images, others = noisy_pair()
    assert metrics.ssim(images, others) == pytest.approx(
        [ssim_by_hand(*pair) for pair in zip(images, others, strict=True)]
    )


def test_ssim_is_one_for_equal_images_even_below_the_window():
    for px in (8, 11, 16):
        images, others = noisy_pair(px=px)
        assert metrics.ssim(images, images) == pytest.approx([1.0] * 3)
        assert (metrics.ssim(images, others) < 1).all()


def test_fid_of_equal_sets_is_zero():
    feats = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 16)))
    assert abs(fid(feats, feats)) < 1e-3


def test_fid_of_equal_covariances_is_the_squared_distance_of_means():
    """Statement 28, on exact statistics and on features that were only shifted."""
    rng = np.random.default_rng(0)
    root, shift = rng.normal(size=(12, 12)), rng.normal(size=12)
    covariance = root @ root.T
    found = distance(Gaussian(np.zeros(12), covariance, 0), Gaussian(shift, covariance, 0))
    assert found == pytest.approx(shift @ shift, rel=1e-6)
    feats = torch.from_numpy(rng.normal(size=(200, 12)))
    assert fid(feats, feats + torch.from_numpy(shift)) == pytest.approx(shift @ shift, rel=1e-6)


def test_fid_with_fewer_images_than_dimensions_is_a_real_number():
    feats = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 64)))
    found = fid(feats[:20], feats[20:])
    assert isinstance(found, float) and math.isfinite(found) and found > 0


def test_kid_is_about_zero_for_one_distribution_and_positive_for_two():
    feats = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32))
    same = metrics.kid(feats[:200], feats[200:], 100, seed=0)
    assert abs(same) < 0.1 < metrics.kid(feats[:200], feats[200:] + 1, 100, seed=0)


def test_a_tight_cluster_has_high_precision_and_low_recall():
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(size=(300, 4)).astype(np.float32))
    tight = torch.from_numpy((0.05 * rng.normal(size=(300, 4))).astype(np.float32))
    radii = {id(points): knn_radii(points, [3, 5]) for points in (real, tight)}
    found, swapped = (
        metrics.neighborhood_metrics(one, other, radii[id(other)], 3, 5)
        for one, other in ((tight, real), (real, tight))
    )
    assert found["precision"] > 0.95 and found["recall"] < 0.1 and found["coverage"] < 0.6 < 1 < found["density"]
    assert (swapped["precision"], swapped["recall"]) == (found["recall"], found["precision"])


@pytest.mark.parametrize(("samples", "references"), [(300, 2500), (1100, 999)])  # batches of 1,000 and a rest
def test_precision_and_recall_are_torch_fidelitys(samples, references):
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(size=(references, 6)).astype(np.float32))
    drawn = torch.from_numpy(rng.normal(loc=0.7, size=(samples, 6)).astype(np.float32))
    theirs = prc_features_to_metric(
        drawn, real, prc_neighborhood=3, prc_batch_size=500, save_cpu_ram=True, verbose=False
    )
    ours = metrics.neighborhood_metrics(drawn, real, knn_radii(real, [3, 5]), 3, 5)
    assert {name: ours[name] for name in ("precision", "recall")} == {
        name: pytest.approx(theirs[name], abs=1e-6) for name in ("precision", "recall")
    }
    assert 0.1 < min(ours.values())


def test_inception_score_runs_from_one_to_the_number_of_classes():
    sure = 50 * torch.eye(10).repeat(50, 1)
    assert metrics.inception_score(sure, seed=0) > 9
    assert metrics.inception_score(torch.zeros(100, 10), seed=0) == pytest.approx(1)


def test_bootstrap_std_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap_std(lambda index: values[index].mean(), 400, draws=400, seed=0)
    assert found == pytest.approx(values.std() / 20, rel=0.15)


@pytest.mark.parametrize("num_codes", [2, 256, 8192])
def test_usage_bounds(num_codes):
    """Statement 19."""
    rng = np.random.default_rng(0)
    for counts in (np.ones(num_codes, int), np.eye(1, num_codes, dtype=int)[0], rng.integers(0, 5, num_codes) + 1):
        found = usage(counts)
        assert 0 < found["live_fraction"] <= 1
        assert 0 <= found["entropy_nats"] <= math.log(num_codes) + 1e-9
    assert usage(np.full(num_codes, 7))["perplexity"] == pytest.approx(num_codes)
    assert usage(np.eye(1, num_codes, dtype=int)[0])["perplexity"] == pytest.approx(1)


def test_entropy_of_8192_codes_in_uniform_use():
    assert usage(np.ones(8192, int))["entropy_nats"] == pytest.approx(9.0109, abs=1e-4)


@pytest.fixture
def small_chunks(monkeypatch):
    """Seven images at once, compared with ten."""
    monkeypatch.setattr("stages.evaluate.neighbors.OTHERS", 10)
    for module in ("neighbors", "metrics"):
        monkeypatch.setattr(f"stages.evaluate.{module}.CHUNK", 7)


def test_radii_precision_and_recall_in_chunks_are_those_of_brute_force(small_chunks):
    rng = torch.Generator().manual_seed(0)
    features, reference = torch.randn(31, 3, generator=rng), torch.randn(24, 3, generator=rng) + 0.5
    own, theirs = (torch.cdist(one, one).sort(1).values[:, 3] for one in (features, reference))
    torch.testing.assert_close(knn_radii(features, [3])[:, 0], own)
    assert knn_radii(features, [40])[:, 0].isnan().all(), "there are no 40 others"
    between, wider = torch.cdist(reference, features), torch.cdist(reference, reference).sort(1).values[:, 5]
    held = between <= wider[:, None]
    wanted = [
        (between <= theirs[:, None]).any(0),
        (between <= own).any(1),
        held.any(1),
        held.float().sum(1) / 5 / 31 * 24,
    ]
    found = metrics.neighborhood_metrics(features, reference, torch.stack([theirs, wider], 1), 3, 5)
    assert [*found] == ["precision", "recall", "coverage", "density"] and 0 < found["precision"] < 1
    assert [*found.values()] == pytest.approx([float(one.float().mean()) for one in wanted])


def test_density_and_coverage_of_one_distribution_are_near_their_expectation():
    """Naeem et al. 2020: 1, and 1 - (N - 1)…(N - k) / ((2 N - 1)…(2 N - k)); nearly .97 for k = 5."""
    rng = torch.Generator().manual_seed(0)
    drawn, real = (torch.randn(2_000, 8, generator=rng) for _ in range(2))
    found = metrics.neighborhood_metrics(drawn, real, knn_radii(real, [3, 5]), 3, 5)
    assert found["density"] == pytest.approx(1, abs=0.05) and found["coverage"] == pytest.approx(1 - 2**-5, abs=0.01)
    assert metrics.neighborhood_metrics(drawn + 9, real, knn_radii(real, [3, 5]), 3, 5)["density"] == 0


def test_kid_and_inception_score_are_torch_fidelitys(tmp_path):
    rng = torch.Generator().manual_seed(0)
    drawn, real = torch.randn(300, 24, generator=rng), torch.randn(400, 24, generator=rng) + 0.1
    settings = {"kid_subsets": metrics.KID_SUBSETS, "kid_subset_size": 100, "rng_seed": 7, "verbose": False}
    theirs = kid_features_to_metric(drawn, real, **settings)["kernel_inception_distance_mean"]
    assert metrics.kid(drawn, real, 100, seed=7) == theirs
    save_file({"real": real}, tmp_path / "real.safetensors")
    assert metrics.kid(drawn, StoredRows(tmp_path / "real.safetensors", "real"), 100, seed=7) == theirs
    score = isc_features_to_metric(drawn, splits=10, rng_seed=7)["inception_score_mean"]
    assert metrics.inception_score(drawn, seed=7) == score


def test_nearest_equals_brute_force_across_chunks(small_chunks):
    rng = np.random.default_rng(0)
    rows, reference = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=(33, 5)).astype(np.float32)
    brute = np.linalg.norm(rows[:, None] - reference[None], axis=2)
    distances, places = nearest(torch.from_numpy(rows), torch.from_numpy(reference))
    assert distances == pytest.approx(brute.min(1), rel=1e-5)
    assert (places == brute.argmin(1)).all()


def test_nearest_resolves_differences_that_matrix_products_round_away():
    rng = np.random.default_rng(0)
    point = 100 + rng.normal(size=(1, 64)).astype(np.float32)
    reference = point + np.array([3e-4, 1e-4, 2e-4, 0, 1, 2, 0], np.float32)[:, None]
    distances, places = nearest(torch.from_numpy(point), torch.from_numpy(reference))
    assert (distances.tolist(), places.tolist()) == ([0.0], [3])


def test_planted_copies_are_found():
    rng = np.random.default_rng(0)
    train, val = (torch.from_numpy(rng.normal(size=(200, 16)).astype(np.float32)) for _ in range(2))
    samples = torch.from_numpy(rng.normal(size=(100, 16)).astype(np.float32))
    samples[:30] = train[50:80]
    val_distances, (distances, places) = nearest(val, train)[0], nearest(samples, train)
    assert (places[:30] == np.arange(50, 80)).all() and distances[:30].max() < 1e-6
    assert 0.30 <= distance_metrics(distances, val_distances)["near_copies"] < 0.36
    assert distance_metrics(val_distances, val_distances)["near_copies"] == pytest.approx(0.01)
