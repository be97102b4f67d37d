"""FID against the number of images, extrapolated and with its spread. Run: uv run pytest tests/test_fid_spread.py"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.evaluate.fid_spread import extrapolated, fid_by_count, fid_std
from stages.evaluate.frechet import Gaussian, distance, fid, fid_to, gaussian
from stages.evaluate.rows import StoredRows

DIM = 24


def drawn(count: int, seed: int) -> torch.Tensor:
    """Of a Gaussian that is wider than the unit Gaussian, and beside it."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((0.1 + 1.1 * rng.normal(size=(count, DIM))).astype(np.float32))


def test_the_extrapolated_value_is_nearer_to_that_of_the_distributions():
    unit = Gaussian(np.zeros(DIM), np.eye(DIM), 0)
    true = distance(Gaussian(np.full(DIM, 0.1), 1.21 * np.eye(DIM), 0), unit)
    sets = [drawn(200, seed) for seed in range(10)]
    curves = [fid_by_count(one, unit, fid_to(one, unit), 5, seed) for seed, one in enumerate(sets)]
    assert [*curves[0]] == [40, 80, 120, 160, 200] and all(curve[40] > curve[200] > true for curve in curves)
    assert abs(np.mean([extrapolated(curve) for curve in curves]) - true) < 0.25 * (
        np.mean([curve[200] for curve in curves]) - true
    )


def test_a_line_over_one_over_n_is_met_at_infinity():
    assert extrapolated({count: 3 + 70 / count for count in (10, 20, 50)}) == pytest.approx(3)


def test_fid_is_of_seeded_subsets_and_of_all():
    features, reference, whole = drawn(100, 0), drawn(300, 1), fid(drawn(100, 0), drawn(300, 1))
    found, again = (fid_by_count(features, gaussian(reference), whole, 3, 0) for _ in range(2))
    rng = np.random.default_rng(0)
    subsets = {size: features[np.sort(rng.choice(100, size, replace=False))] for size in (20, 60)}
    assert found == again == {**{size: fid(one, reference) for size, one in subsets.items()}, 100: whole}


def test_the_bootstrap_spread_is_near_that_between_sets():
    reference = gaussian(drawn(2_000, 99))
    between = np.std([fid(drawn(200, seed), drawn(2_000, 99)) for seed in range(30)], ddof=1)
    assert fid_std(drawn(200, 0), reference, 30, 0) == pytest.approx(between, rel=0.6)


def test_rows_on_disk_are_those_in_memory(tmp_path):

    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    save_file({"other": torch.zeros(3), "rows": rows}, tmp_path / "a.safetensors")
    stored = StoredRows(tmp_path / "a.safetensors", "rows")
    assert len(stored) == 50 and stored.shape == (50, 7)
    numbers = np.array([[3, 3], [49, 0]])
    assert torch.equal(stored[numbers], rows[numbers]) and torch.equal(stored[40:90], rows[40:])
    assert torch.equal(stored[torch.tensor([4])], rows[[4]]) and len(stored[5:5]) == 0
    assert torch.equal(torch.cat([*stored.split(20)]), rows)
    other = drawn(50, 0)[:, :7]
    assert fid(stored, other, np.arange(40)) == pytest.approx(fid(rows[:40], other[:40]))
