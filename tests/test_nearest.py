"""The nearest code of a vector: against brute force and vector-quantize-pytorch; code vectors packed and not.

Run: uv run pytest tests/test_nearest.py
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.codebook import quantizers
from stages.codebook.quantizers import Codebook, nearest


@given(st.integers(0, 10_000), st.booleans())
def test_a_code_is_the_nearest_centroid_by_brute_force(seed, normalize):
    rng = np.random.default_rng(seed)
    points, centroids = rng.normal(size=(3, 5, 4)), rng.normal(size=(6, 4))
    if normalize:
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        used = points / np.linalg.norm(points, axis=2, keepdims=True)
    else:
        used = points
    wanted = ((used[:, :, None] - centroids) ** 2).sum(-1).argmin(-1)
    found = Codebook(torch.from_numpy(centroids), normalize).assign(torch.from_numpy(points))
    assert np.array_equal(found.numpy(), wanted)


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def packing(request, monkeypatch):
    """With code vectors as they are, and packed however few there are."""
    monkeypatch.setattr(quantizers, "packing_pays", lambda: request.param)
    monkeypatch.setattr(quantizers, "PACKED_VALUES", 0)
    monkeypatch.setattr(quantizers, "PACKED_FROM", 0)
    return request.param


@pytest.mark.parametrize("normalize", [False, True])
def test_packed_or_not_a_code_is_the_nearest_of_many_vectors_by_float64(packing, normalize):
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(1300, 48, generator=rng)
    vectors = points[torch.randint(1300, (700,), generator=rng)] + 0.3 * torch.randn(700, 48, generator=rng)
    vectors = torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors
    book = Codebook(vectors, normalize)
    wanted = torch.cdist(book.in_code_space(points).double(), vectors.double()).argmin(1)
    assert torch.equal(book.assign(points), wanted) and torch.equal(book.assign(points[:7]), wanted[:7])
    assert (book._packed[0] is not None) == packing


def test_a_codebook_that_moves_packs_its_vectors_anew(packing):
    book = Codebook(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), False)
    points = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert book.assign(points).tolist() == [0, 1]
    book._apply(lambda vectors: vectors.flip(0))
    assert book.assign(points).tolist() == [1, 0]


@pytest.mark.parametrize("count", [0, 1, 511, 512, 1300])
def test_of_equally_near_vectors_the_first_is_chosen_whatever_the_number_of_rows(count, packing):
    rng = np.random.default_rng(count)
    features, vectors = (
        rng.integers(-2, 3, size=(count, 3)),
        rng.integers(-2, 3, size=(70, 3)),
    )  # exact in float32, many ties
    wanted = ((features[:, None] - vectors) ** 2).sum(-1).argmin(1)
    found = nearest(torch.from_numpy(features).float(), torch.from_numpy(vectors).float())
    assert found.dtype == torch.int64 and np.array_equal(found.numpy(), wanted)


def test_each_codebook_chooses_among_its_own_vectors():
    rng = np.random.default_rng(0)
    vectors, features = rng.normal(size=(3 * 4, 2)), rng.normal(size=(5, 3 * 6, 2))
    found = Codebook(torch.from_numpy(vectors), False, codebooks=3).assign(torch.from_numpy(features)).numpy()
    for g in range(3):
        own, part = vectors[4 * g : 4 * g + 4], features[:, 6 * g : 6 * g + 6]
        wanted = ((part[:, :, None] - own) ** 2).sum(-1).argmin(-1) + 4 * g
        assert np.array_equal(found[:, 6 * g : 6 * g + 6], wanted)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_code_is_the_nearest_vector_in_code_space(normalize):
    rng = np.random.default_rng(0)
    vectors, features = (torch.from_numpy(rng.normal(size=(count, 4)) * 3).float() for count in (6, 50))
    book = Codebook(torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors, normalize)
    placed = book.in_code_space(features)
    assert torch.equal(torch.cdist(placed, book.vectors).argmin(1), book.assign(features))
    torch.testing.assert_close(placed, features / features.norm(dim=-1, keepdim=True) if normalize else features)


def test_lookup_is_in_full_precision_inside_autocast_too():
    torch.manual_seed(0)
    features, vectors = torch.randn(600, 16), torch.randn(256, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(features, vectors)
    assert torch.equal(found, nearest(features, vectors))


def test_lookup_equals_that_of_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    vectors, features = torch.randn(50, 8), torch.randn(4, 30, 8)
    peer = VectorQuantize(dim=8, codebook_size=50).eval()
    peer._codebook.embed.data.copy_(vectors[None])
    assert torch.equal(Codebook(vectors, False).assign(features), peer(features)[1])
