"""Streamed k-means: passes of Lloyd and of mini-batches over features in files, resumed and bounded in memory.

Run: uv run pytest tests/test_streaming.py
"""

import tracemalloc

import numpy as np
import pytest
import torch
from blobs import CPU, blobs, error, features_of, kmeans_params
from hypothesis import given
from hypothesis import strategies as st

from stages.codebook import streaming
from stages.codebook.initial_vectors import first_vectors, spread_vectors
from stages.codebook.kmeans_features import Features, Layout, regroup
from stages.codebook.quantizers import nearest


def test_streamed_lloyd_equals_scikit_learn_and_faiss_from_the_same_start(tmp_path):
    import faiss
    from sklearn.cluster import KMeans

    points, params = blobs(3000), kmeans_params(method="lloyd", num_codes=12, iterations=6, init="random")
    features = features_of(points)
    start = streaming.start(features, 0, params, CPU).vectors.astype(np.float32)
    found, curves = streaming.stream(features, 0, params, tmp_path, CPU)
    oracle = KMeans(12, init=start, n_init=1, max_iter=6, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(found, oracle.cluster_centers_, atol=1e-4)
    peer = faiss.Kmeans(8, 12, niter=6, max_points_per_centroid=len(points))
    peer.train(points, init_centroids=start)
    np.testing.assert_allclose(found, peer.centroids, atol=1e-4)
    objective = [scalars["objective"] for _, scalars in curves.rows]
    np.testing.assert_allclose(objective, [it["obj"] for it in peer.iteration_stats], rtol=1e-4)


def test_chunks_and_files_make_no_difference_to_lloyd(tmp_path):
    points, results = blobs(1000), []
    start = streaming.start(features_of(points), 0, kmeans_params(num_codes=12), CPU)
    for number, (chunk, files) in enumerate([(64, 3), (1000, 1)]):
        (tmp_path / str(number)).mkdir()
        streaming.save(start, tmp_path / str(number) / "kmeans-0.safetensors")
        params = kmeans_params(method="lloyd", num_codes=12, chunk_vectors=chunk, iterations=5)
        results.append(streaming.stream(features_of(points, files=files), 0, params, tmp_path / str(number), CPU)[0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_initial_vectors_far_from_each_other_leave_half_the_error_of_random_ones():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(40, 1, 8)) * 9 + rng.normal(size=(40, 100, 8))).reshape(-1, 8).astype(np.float32)

    def left(init: str) -> float:
        params = [kmeans_params(init=init, num_codes=40, seed=seed, method="lloyd") for seed in range(5)]
        return float(np.mean([error(points, first_vectors(points, one, CPU)[1]) for one in params]))

    assert left("kmeans++") < left("kmeans||") < 0.5 * left("random")
    assert np.array_equal(spread_vectors(points, 40, 1), spread_vectors(points, 40, 1)), "seeded"
    few = np.repeat(np.eye(3, 8, dtype=np.float32), 4, 0)
    found = spread_vectors(few, 9, 0)
    assert found.shape == (9, 8) and len(np.unique(found, axis=0)) == 3, "copies once nothing else is left"


def test_lloyd_stops_when_nothing_moves(tmp_path):
    _, curves = streaming.stream(
        features_of(blobs(500)), 0, kmeans_params(method="lloyd", iterations=500), tmp_path, CPU
    )
    assert len(curves.rows) < 100


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_spherical_vectors_have_unit_length_and_come_nearer(method, tmp_path):
    features = features_of(blobs(500), normalize=True)
    vectors, curves = streaming.stream(features, 0, kmeans_params(method=method, normalize=True), tmp_path, CPU)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    objective = [scalars["objective"] for _, scalars in curves.rows]
    assert objective[-1] < objective[0] and (method == "minibatch" or objective == sorted(objective, reverse=True))


def test_minibatches_come_close_to_lloyd_and_are_seeded(tmp_path):
    points, vectors = blobs(3000), {}
    for name, method, seed in (("a", "minibatch", 0), ("b", "minibatch", 0), ("c", "minibatch", 1), ("l", "lloyd", 0)):
        (tmp_path / name).mkdir()
        params = kmeans_params(method=method, seed=seed, iterations=10)
        vectors[name] = streaming.stream(features_of(points), 0, params, tmp_path / name, CPU)[0]
    assert torch.equal(vectors["a"], vectors["b"]) and not torch.equal(vectors["a"], vectors["c"])
    assert error(points, vectors["a"]) < 1.05 * error(points, vectors["l"])


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_a_vector_that_no_feature_chooses_is_put_to_use(method, tmp_path):
    points, params = blobs(1000), kmeans_params(method=method, iterations=8)
    far = np.concatenate([points[:4], np.full((1, 8), 1e3)]).astype(np.float64)
    streaming.save(streaming.State(far, np.zeros(5)), tmp_path / "kmeans-0.safetensors")
    vectors, curves = streaming.stream(features_of(points), 0, params, tmp_path, CPU)
    assert curves.rows[0][1]["splits"] == 1 and curves.last()["splits"] == 0
    assert (np.bincount(nearest(torch.from_numpy(points), vectors), minlength=5) > 0).all()


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_a_killed_fit_goes_on_to_the_same_bytes(method, tmp_path, monkeypatch, capsys):
    params, features = kmeans_params(method=method, num_codes=12, iterations=6), features_of(blobs(1000))
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, curves = streaming.stream(features, 0, params, tmp_path / "whole", CPU)
    save = streaming.save

    def die_after_three(state, path):
        save(state, path)
        if state.passes == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(streaming, "save", die_after_three)
    with pytest.raises(KeyboardInterrupt):
        streaming.stream(features, 0, params, tmp_path / "killed", CPU)
    monkeypatch.setattr(streaming, "save", save)
    resumed, again = streaming.stream(features, 0, params, tmp_path / "killed", CPU)
    assert torch.equal(whole, resumed) and again.rows == curves.rows
    assert "resuming at pass 3" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_memory_does_not_grow_with_the_number_of_images(method, tmp_path):
    """Features are drawn as they are read: what is held is a chunk, whether there are 20,000 of them or 80,000."""
    peak_bytes(method, 500, tmp_path / "imports")
    few, many = (peak_bytes(method, images, tmp_path / str(images)) for images in (2_000, 8_000))
    every_vector = 8_000 * 10 * 64 * 4
    assert many < 1.1 * few and many < every_vector / 3, (few, many)


def peak_bytes(method: str, images: int, work) -> int:
    """What one pass allocates at most."""
    work.mkdir()
    pieces = [lambda n=n: drawn(n, images // 10) for n in range(10)]
    features = Features(
        Layout([0], 1, 10, 64, False, False, {"train": images, "val": 0}), {"train": pieces, "val": []}, False
    )
    params = kmeans_params(method=method, iterations=1, chunk_vectors=2000)
    tracemalloc.start()
    streaming.stream(features, 0, params, work, CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def drawn(number: int, images: int):
    """A file of `images` arrays float16 [1, 1, 10, 64], fifty at a time in memory."""
    rng = np.random.default_rng(number)
    for _ in range(images // 50):
        yield from rng.normal(size=(50, 1, 1, 10, 64)).astype(np.float16)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 12))
def test_regrouping_keeps_vectors_and_their_order(lengths, size):
    features = np.arange(sum(lengths))[:, None]
    found = list(regroup(iter(np.split(features, np.cumsum(lengths)[:-1])), size))
    assert np.array_equal(np.concatenate(found), features)
    assert [len(part) for part in found[:-1]] == [size] * (len(found) - 1) and 0 < len(found[-1]) <= size
