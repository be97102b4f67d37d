"""k-means: how features are sampled, mapped and clustered, against brute force and scikit-learn.

Run: uv run pytest tests/test_kmeans.py
"""

import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from blobs import CPU, blobs, error, features_of, kmeans_params

from stages.codebook import engines
from stages.codebook.engines import ENGINES, check_engine, cluster_by_faiss
from stages.codebook.initial_vectors import REDO_SEED, initial_vectors
from stages.codebook.kmeans_features import Features, fit_feature_map, layout_of, stored_features
from stages.codebook.params import Inputs
from stages.codebook.quantizers import Codebook
from stages.codebook.streaming import stream
from stages.core import UserError

# In memory


@pytest.mark.parametrize("init", ["random", "kmeans++", "afk-mc2"])
def test_kmeans_reaches_scikit_learns_objective_on_all_points(init):
    from sklearn.cluster import KMeans

    points = blobs(3000)
    centroids, curves = cluster_by_faiss(points, kmeans_params(init=init, redo=8), CPU)
    assert error(points, centroids) <= KMeans(5, n_init=5, random_state=0).fit(points).inertia_ * 1.02
    assert curves.last()["objective"] == pytest.approx(error(points, centroids), rel=0.05), (
        "all 3000 points, no silent sub-sample of 5 * 256"
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_the_curve_is_that_of_the_best_redo_alone_though_each_stops_early(init, normalize):
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(8, 1, 4)) * 3 + rng.normal(size=(8, 200, 4))).reshape(-1, 4).astype(np.float32)
    points = features_of(points, normalize).sample(0, len(points), 0)
    facts = {"num_codes": 8, "iterations": 60, "init": init, "normalize": normalize}
    vectors, found = cluster_by_faiss(points, kmeans_params(**facts, redo=3), CPU)
    runs = [cluster_by_faiss(points, kmeans_params(**facts, seed=redo * REDO_SEED), CPU) for redo in range(3)]
    lengths, errors = [len(curves.rows) for _, curves in runs], [error(points, vectors) for vectors, _ in runs]
    assert len({*lengths}) > 1 and max(lengths) < 60, "each stops when its objective does"
    own, curves = runs[int(np.argmin(errors))]
    assert torch.equal(vectors, own) and found.rows == curves.rows
    objective = [scalars["objective"] for _, scalars in found.rows]
    assert objective == sorted(objective, reverse=True)
    assert objective[-1] == pytest.approx(error(points, vectors), rel=1e-4)


def test_redos_end_with_the_vectors_of_faiss_own_redos():
    points, params = blobs(400), kmeans_params(num_codes=12, iterations=6, redo=8)
    peer = faiss.Kmeans(8, 12, niter=6, nredo=8, seed=0, init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS)
    peer.train(points)
    assert np.array_equal(peer.centroids, cluster_by_faiss(points, params, CPU)[0])


@pytest.mark.parametrize("normalize", [False, True])
def test_the_objective_is_the_sum_of_squared_distances_in_memory_as_streamed(normalize, tmp_path):
    features, facts = features_of(blobs(400), normalize), {"normalize": normalize, "num_codes": 12, "iterations": 6}
    sample, params = features.sample(0, 400, 0), kmeans_params(**facts)
    _, curves = cluster_by_faiss(sample, params, CPU)
    _, streamed = stream(features, 0, kmeans_params(**facts, method="lloyd"), tmp_path, CPU)
    wanted = [error(sample, initial_vectors(sample, params, CPU, done)) for done in range(6)]
    assert wanted == sorted(wanted, reverse=True)
    for found in (curves, streamed):
        np.testing.assert_allclose([scalars["objective"] for _, scalars in found.rows], wanted, rtol=1e-4)


def test_normalized_input_gives_centroids_of_unit_length_and_the_codes_of_cosine_similarity():
    features = features_of(blobs(400), normalize=True)
    sample = features.sample(0, 400, 0)
    np.testing.assert_allclose(np.linalg.norm(sample, axis=1), 1, atol=1e-6)
    centroids, _ = cluster_by_faiss(sample, kmeans_params(normalize=True), CPU)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    codes = Codebook(centroids, True).assign(torch.from_numpy(blobs(400)))
    assert np.array_equal(codes, (sample @ centroids.numpy().T).argmax(1))


def test_the_sample_of_vectors_is_seeded_of_the_stated_size_and_without_repetition(toy):
    features = toy_features(toy)
    whole = features.sample(0, features.layout.train_vectors, 0)
    some, again, other = (features.sample(0, 100, seed) for seed in (0, 0, 1))
    assert some.shape == (100, 32) and np.array_equal(some, again) and not np.array_equal(some, other)
    places = [{row.tobytes(): i for i, row in enumerate(whole)}[row.tobytes()] for row in some]
    assert places == sorted(set(places)), "in order, none twice"


def toy_features(root) -> Features:
    inputs = Inputs("kmeans", *(root / "data" / name for name in ("images", "encoder", "features")), root, root)
    return stored_features(inputs, layout_of(inputs, kmeans_params()), False)


def test_flash_says_what_it_needs():
    machine = SimpleNamespace(device="cpu")
    with pytest.raises(UserError, match="needs a GPU .* and the package: uv pip install flash-kmeans"):
        check_engine("codebook.kmeans", "flash", machine)
    with pytest.raises(ValueError, match="no spherical k-means"):
        kmeans_params(engine="flash", normalize=True)


def test_flash_gets_the_sample_and_faiss_initial_centroids(monkeypatch):
    """With a stand-in for the package: what is asked of it, and what is made of its answer."""
    asked = {}

    def batch_kmeans_euclid(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None, verbose=False):
        asked.update(shape=tuple(x.shape), k=n_clusters, iters=max_iters, tol=tol, init=init_centroids[0].numpy())
        return torch.zeros(1, x.shape[1], dtype=torch.int64), init_centroids + 1, 7

    monkeypatch.setitem(sys.modules, "flash_kmeans", SimpleNamespace(batch_kmeans_Euclid=batch_kmeans_euclid))
    points, params = blobs(300), kmeans_params(engine="flash")
    vectors, curves = ENGINES["flash"](points, params, CPU)
    start = initial_vectors(points, params, CPU)
    assert (asked["shape"], asked["k"], asked["iters"], asked["tol"]) == ((1, 300, 8), 5, 20, 0.0)
    assert np.array_equal(asked["init"], start) and np.allclose(vectors, start + 1)
    assert curves.rows[0][0] == 7 and curves.last()["objective"] == pytest.approx(error(points, vectors), rel=1e-4)


def test_superkmeans_gets_the_whole_sample_and_its_centroids_are_kept(monkeypatch):
    """With a stand-in for the package."""
    points, asked = blobs(300), {}

    class SuperKMeans:
        def __init__(self, n_clusters, dimensionality, **options):
            asked.update(options, shape=(n_clusters, dimensionality))

        def train(self, sample):
            asked["vectors"] = len(sample)
            self.iteration_stats = [SimpleNamespace(objective=9.0, split=1), SimpleNamespace(objective=4.0, split=0)]
            return sample[:5]

    monkeypatch.setitem(sys.modules, "superkmeans", SimpleNamespace(SuperKMeans=SuperKMeans))
    params = kmeans_params(engine="superkmeans", init="random", seed=3)
    vectors, curves = ENGINES["superkmeans"](points, params, CPU)
    assert (asked["shape"], asked["vectors"], asked["sampling_fraction"], asked["seed"]) == ((5, 8), 300, 1.0, 3)
    assert (asked["iters"], asked["early_termination"], asked["max_points_per_cluster"]) == (20, False, 300)
    assert np.array_equal(vectors, points[:5])
    assert curves.rows == [(0, {"objective": 9.0, "splits": 1.0}), (1, {"objective": 4.0, "splits": 0.0})]


def test_superkmeans_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="it needs the package: uv pip install superkmeans; or use engine: faiss"):
        check_engine("codebook.kmeans", "superkmeans", SimpleNamespace(device="cpu"))
    with pytest.raises(ValueError, match="expected init: random"):
        kmeans_params(engine="superkmeans")


# Projection


@pytest.mark.parametrize("whiten", [0.0, 1.0])
def test_the_projection_is_scikit_learns_pca(whiten):
    from sklearn.decomposition import PCA

    points = (blobs(1000) @ np.random.default_rng(1).normal(size=(8, 8)) + 50).astype(np.float32)
    feature_map = fit_feature_map(features_of(points), kmeans_params(pca_dim=3, whiten=whiten, chunk_vectors=70))
    found, oracle = (
        feature_map.of(0, torch.from_numpy(points)).numpy(),
        PCA(3, whiten=bool(whiten)).fit_transform(points),
    )
    oracle *= np.sign((found * oracle).sum(0))
    np.testing.assert_allclose(found, oracle, rtol=2e-3, atol=2e-3 * np.abs(oracle).max())


def test_partial_whitening_lies_between():
    stds = [
        fit_feature_map(features_of(blobs(1000)), kmeans_params(whiten=whiten))
        .of(0, torch.from_numpy(blobs(1000)))
        .std(0)
        for whiten in (0.25, 0.5, 1.0)
    ]
    spread = [float(std.max() / std.min()) for std in stds]
    assert spread[0] > spread[1] > spread[2] == pytest.approx(1, abs=1e-3)


def test_blocks_side_by_side_get_equal_weight():
    points = np.concatenate([blobs(500), 100 * blobs(500, seed=1)], 1)
    feature_map = fit_feature_map(features_of(points, layers=2), kmeans_params(blocks=[0, 1]))
    mapped = feature_map.of(0, torch.from_numpy(points))
    for half in (mapped[:, :8], mapped[:, 8:]):
        assert float(half.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-4)
    assert feature_map.weight.shape == (1, 16), "no matrix without a projection"
