"""The Fréchet distance equals torch-fidelity's and scipy's, also of singular covariances, in bounded memory.

Run: uv run pytest tests/test_frechet.py
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from stages.evaluate import frechet
from stages.evaluate.frechet import fid, gaussian


def feats(count: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated features of unequal scales."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).normal(size=(dim, dim)) * np.geomspace(1e-2, 10, dim)
    return torch.from_numpy((rng.normal(size=(count, dim)) @ mix + 0.1 * seed).astype(np.float32))


@pytest.mark.parametrize(("count", "dim"), [(200, 60), (60, 200), (199, 200), (200, 200)])
def test_it_is_torch_fidelitys_within_1e_5_above_and_below_the_number_of_features(count, dim):
    one, other = feats(count, dim, 0), feats(count, dim, 1)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in (one, other)), verbose=False)
    assert fid(one, other) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-5)
    unit = one / one.std()
    assert gaussian(one).singular == (count <= dim) and abs(fid(unit, unit)) < 1e-3


@pytest.mark.parametrize(("count", "dim"), [(500, 16), (900, 200)])
def test_it_is_torch_fidelitys_and_scipys(count, dim):
    one, other = feats(count, dim, 0), feats(count + 37, dim, 1)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in (one, other)), verbose=False)
    assert fid(one, other) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-7)
    (m, s, _), (n, t, _) = gaussian(one), gaussian(other)
    trace = np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert fid(one, other) == pytest.approx(np.square(m - n).sum() + trace, rel=1e-7)


def test_sums_over_parts_are_the_statistics_of_the_whole(monkeypatch):
    monkeypatch.setattr(frechet, "PART", 64)
    whole = feats(500, 20, 0)
    mean, covariance, count = gaussian(whole)
    assert count == 500
    np.testing.assert_allclose(mean, whole.double().numpy().mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(whole.double().numpy(), rowvar=False), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("counts", [(20, 30), (20, 400), (400, 20)])
def test_fewer_images_than_dimensions_on_either_side_give_the_same_as_eigenvectors(counts):
    one, other = (feats(count, 64, seed) for seed, count in enumerate(counts))
    (m, s, _), (n, t, _) = gaussian(one), gaussian(other)
    values, vectors = np.linalg.eigh(s)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    trace = np.trace(s) + np.trace(t) - 2 * np.sqrt(np.linalg.eigvalsh(half @ t @ half).clip(0)).sum()
    assert fid(one, other) == pytest.approx(np.square(m - n).sum() + trace, rel=1e-6)
    assert fid(one, other) == pytest.approx(fid(other, one), rel=1e-6)


@pytest.mark.parametrize("flat", [0, 3])
def test_dimensions_that_never_vary_add_the_distance_of_their_means_alone(flat):
    """Exactly singular: rank 5 of 8, and constant on both sides."""
    rng = np.random.default_rng(flat)
    sets = [torch.from_numpy(rng.normal(size=(300, 5))) for _ in range(2)]
    wider = [torch.cat([one, torch.full((300, 3), float(place))], 1) for place, one in enumerate(sets)]
    assert fid(*wider) == pytest.approx(fid(*sets) + 3, rel=1e-9)
    assert fid(wider[0], torch.zeros(300, 8)) == pytest.approx(
        float(wider[0].mean(0).square().sum() + wider[0].var(0).sum()), rel=1e-9
    )
