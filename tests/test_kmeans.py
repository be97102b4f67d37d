"""k-means: where rows come from, how they are mapped, clustered and looked up, against brute force and scikit-learn.

Run: uv run pytest tests/test_kmeans.py
"""

import json
import shutil
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy as toys
from hypothesis import given
from hypothesis import strategies as st

from stages.codebook import kmeans, lloyd
from stages.codebook.engines import ENGINES, check_flash, faiss_kmeans, initial
from stages.codebook.model import load_tokenizer
from stages.codebook.project import fit_affine
from stages.codebook.quantise import Codebook, nearest
from stages.codebook.rows import Layout, Rows, regroup, stored_rows
from stages.codebook.sources import Sources
from stages.core.errors import UserError
from stages.core.params import load
from stages.data.reader import ImageSplit
from stages.decoder.model import OneStep

CPU = torch.device("cpu")
BASE = {
    "kind": "kmeans", "encoder": "pipeline", "blocks": [], "layers": "concat", "pca_dim": 0, "whiten": 0.0,
    "num_codes": 5, "method": "sample", "engine": "faiss", "max_vectors": 0, "chunk_vectors": 1000,
    "batch_vectors": 100, "start_iterations": 0, "iterations": 20, "init": "kmeans++", "redo": 1,
    "normalise": False, "seed": 0,
}  # fmt: skip


def kmeans_params(**changes) -> kmeans.Params:
    return kmeans.Params(**{**BASE, **changes})


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 8] around five centres."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(5, 8))[rng.integers(5, size=count)] * 3 + rng.normal(size=(count, 8))).astype(np.float32)


def rows_of(points: np.ndarray, normalise: bool = False, layers: int = 1, groups: int = 1, files: int = 7) -> Rows:
    """Rows as if images of ten patches each had given them, in several files; points [M, layers * D]."""
    images = points.reshape(-1, 10, layers, points.shape[1] // layers).swapaxes(1, 2)  # [images, layers, patches, D]
    if groups == 1:
        images = points.reshape(-1, 1, 10, points.shape[1])
    parts = [part[:, None] for part in np.array_split(images, files)]
    shape = Layout(list(range(layers)), groups, 10, images.shape[-1], False, False, {"train": len(images), "val": 0})
    return Rows(shape, {"train": [lambda part=part: iter(part) for part in parts], "val": []}, normalise)


def error(points: np.ndarray, vectors: np.ndarray | torch.Tensor) -> float:
    return float(((points[:, None] - np.asarray(vectors)) ** 2).sum(-1).min(1).sum())


# Codebook


@given(st.integers(0, 10_000), st.booleans())
def test_a_code_is_the_nearest_centroid_by_brute_force(seed, normalise):
    rng = np.random.default_rng(seed)
    feats, centroids = rng.normal(size=(3, 5, 4)), rng.normal(size=(6, 4))
    if normalise:
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        feats_used = feats / np.linalg.norm(feats, axis=2, keepdims=True)
    else:
        feats_used = feats
    wanted = ((feats_used[:, :, None] - centroids) ** 2).sum(-1).argmin(-1)
    found = Codebook(torch.from_numpy(centroids), normalise).assign(torch.from_numpy(feats))
    assert np.array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("count", [0, 1, 511, 512, 1300])
def test_of_equally_near_vectors_the_first_is_chosen_whatever_the_number_of_rows(count):
    rng = np.random.default_rng(count)
    rows, vectors = (
        rng.integers(-2, 3, size=(count, 3)),
        rng.integers(-2, 3, size=(70, 3)),
    )  # exact in float32, many ties
    wanted = ((rows[:, None] - vectors) ** 2).sum(-1).argmin(1)
    found = nearest(torch.from_numpy(rows).float(), torch.from_numpy(vectors).float())
    assert found.dtype == torch.int64 and np.array_equal(found.numpy(), wanted)


def test_each_group_of_positions_chooses_among_its_own_vectors():
    rng = np.random.default_rng(0)
    vectors, rows = rng.normal(size=(3 * 4, 2)), rng.normal(size=(5, 3 * 6, 2))
    found = Codebook(torch.from_numpy(vectors), False, groups=3).assign(torch.from_numpy(rows)).numpy()
    for group in range(3):
        own, part = vectors[4 * group : 4 * group + 4], rows[:, 6 * group : 6 * group + 6]
        wanted = ((part[:, :, None] - own) ** 2).sum(-1).argmin(-1) + 4 * group
        assert np.array_equal(found[:, 6 * group : 6 * group + 6], wanted)


def test_lookup_is_in_full_precision_inside_autocast_too():
    torch.manual_seed(0)
    rows, vectors = torch.randn(600, 16), torch.randn(256, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(rows, vectors)
    assert torch.equal(found, nearest(rows, vectors))


def test_lookup_equals_that_of_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    vectors, rows = torch.randn(50, 8), torch.randn(4, 30, 8)
    peer = VectorQuantize(dim=8, codebook_size=50).eval()
    peer._codebook.embed.data.copy_(vectors[None])
    assert torch.equal(Codebook(vectors, False).assign(rows), peer(rows)[1])


# In memory


@pytest.mark.parametrize("init", ["random", "kmeans++", "afk-mc2"])
def test_kmeans_reaches_scikit_learns_objective_on_all_points(init):
    from sklearn.cluster import KMeans

    points = blobs(3000)
    centroids, progress = faiss_kmeans(points, kmeans_params(init=init, redo=8), CPU)
    assert error(points, centroids) <= KMeans(5, n_init=5, random_state=0).fit(points).inertia_ * 1.02
    assert progress.last()["objective"] == pytest.approx(error(points, centroids), rel=0.05), (
        "all 3000 points, no silent sub-sample of 5 * 256"
    )


def test_normalised_input_gives_centroids_of_unit_length_and_the_codes_of_cosine_similarity():
    rows = rows_of(blobs(400), normalise=True)
    sample = rows.sample(0, 400, 0)
    np.testing.assert_allclose(np.linalg.norm(sample, axis=1), 1, atol=1e-6)
    centroids, _ = faiss_kmeans(sample, kmeans_params(normalise=True), CPU)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    codes = Codebook(centroids, True).assign(torch.from_numpy(blobs(400)))
    assert np.array_equal(codes, (sample @ centroids.numpy().T).argmax(1))


def test_the_sample_of_vectors_is_seeded_of_the_stated_size_and_without_repetition(toy):
    rows = toy_rows(toy)
    whole = rows.sample(0, rows.total(), 0)
    some, again, other = (rows.sample(0, 100, seed) for seed in (0, 0, 1))
    assert some.shape == (100, 32) and np.array_equal(some, again) and not np.array_equal(some, other)
    places = [{row.tobytes(): i for i, row in enumerate(whole)}[row.tobytes()] for row in some]
    assert places == sorted(set(places)), "in order, none twice"


def toy_rows(root) -> Rows:
    sources = Sources(*(root / "data" / name for name in ("images", "encoder", "features")))
    params = kmeans_params()
    return stored_rows(sources, kmeans.sources_of_rows.layout("codebook.kmeans", sources, params), False)


def test_flash_says_what_it_needs():
    machine = SimpleNamespace(device="cpu")
    with pytest.raises(UserError, match="needs a GPU .* and the package: uv pip install flash-kmeans"):
        check_flash("codebook.kmeans", machine)
    with pytest.raises(ValueError, match="no spherical k-means"):
        kmeans_params(engine="flash", normalise=True)


def test_flash_gets_the_sample_and_faiss_initial_centroids(monkeypatch):
    """With a stand-in for the package: what is asked of it, and what is made of its answer."""
    asked = {}

    def batch_kmeans_euclid(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None, verbose=False):
        asked.update(shape=tuple(x.shape), k=n_clusters, iters=max_iters, tol=tol, init=init_centroids[0].numpy())
        return torch.zeros(1, x.shape[1], dtype=torch.int64), init_centroids + 1, 7

    monkeypatch.setitem(sys.modules, "flash_kmeans", SimpleNamespace(batch_kmeans_Euclid=batch_kmeans_euclid))
    points, params = blobs(300), kmeans_params(engine="flash")
    vectors, progress = ENGINES["flash"](points, params, CPU)
    start = initial(points, params, CPU)
    assert (asked["shape"], asked["k"], asked["iters"], asked["tol"]) == ((1, 300, 8), 5, 20, 0.0)
    assert np.array_equal(asked["init"], start) and np.allclose(vectors, start + 1)
    assert progress.rows[0][0] == 7 and progress.last()["objective"] == pytest.approx(error(points, vectors), rel=1e-4)


# Streamed


def test_streamed_lloyd_equals_scikit_learn_and_faiss_from_the_same_start(tmp_path):
    import faiss
    from sklearn.cluster import KMeans

    points, params = blobs(3000), kmeans_params(method="lloyd", num_codes=12, iterations=6, init="random")
    rows = rows_of(points)
    start = lloyd.start(rows, 0, params, CPU).vectors.astype(np.float32)
    found, curves = lloyd.stream(rows, 0, params, tmp_path, CPU)
    oracle = KMeans(12, init=start, n_init=1, max_iter=6, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(found, oracle.cluster_centers_, atol=1e-4)
    peer = faiss.Kmeans(8, 12, niter=6, max_points_per_centroid=len(points))
    peer.train(points, init_centroids=start)
    np.testing.assert_allclose(found, peer.centroids, atol=1e-4)
    objective = [scalars["objective"] for _, scalars in curves.rows]
    np.testing.assert_allclose(objective, [it["obj"] for it in peer.iteration_stats], rtol=1e-4)


def test_chunks_and_files_make_no_difference_to_lloyd(tmp_path):
    points, results = blobs(1000), []
    start = lloyd.start(rows_of(points), 0, kmeans_params(num_codes=12), CPU)
    for number, (chunk, files) in enumerate([(64, 3), (1000, 1)]):
        (tmp_path / str(number)).mkdir()
        lloyd.save(start, tmp_path / str(number) / "kmeans-0.safetensors")
        params = kmeans_params(method="lloyd", num_codes=12, chunk_vectors=chunk, iterations=5)
        results.append(lloyd.stream(rows_of(points, files=files), 0, params, tmp_path / str(number), CPU)[0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_lloyd_stops_when_nothing_moves(tmp_path):
    _, curves = lloyd.stream(rows_of(blobs(500)), 0, kmeans_params(method="lloyd", iterations=500), tmp_path, CPU)
    assert len(curves.rows) < 100


def test_spherical_lloyd_keeps_unit_vectors_and_raises_the_cosine(tmp_path):
    rows = rows_of(blobs(500), normalise=True)
    vectors, curves = lloyd.stream(rows, 0, kmeans_params(method="lloyd", normalise=True), tmp_path, CPU)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    objective = [scalars["objective"] for _, scalars in curves.rows]
    assert objective == sorted(objective, reverse=True)


def test_minibatches_come_close_to_lloyd_and_are_seeded(tmp_path):
    points, vectors = blobs(3000), {}
    for name, method, seed in (("a", "minibatch", 0), ("b", "minibatch", 0), ("c", "minibatch", 1), ("l", "lloyd", 0)):
        (tmp_path / name).mkdir()
        params = kmeans_params(method=method, seed=seed, iterations=10)
        vectors[name] = lloyd.stream(rows_of(points), 0, params, tmp_path / name, CPU)[0]
    assert torch.equal(vectors["a"], vectors["b"]) and not torch.equal(vectors["a"], vectors["c"])
    assert error(points, vectors["a"]) < 1.05 * error(points, vectors["l"])


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_a_vector_that_no_row_chooses_is_put_to_use(method, tmp_path):
    points, params = blobs(1000), kmeans_params(method=method, iterations=8)
    far = np.concatenate([points[:4], np.full((1, 8), 1e3)]).astype(np.float64)
    lloyd.save(lloyd.State(far, np.zeros(5)), tmp_path / "kmeans-0.safetensors")
    vectors, curves = lloyd.stream(rows_of(points), 0, params, tmp_path, CPU)
    assert curves.rows[0][1]["splits"] == 1 and curves.last()["splits"] == 0
    assert (np.bincount(nearest(torch.from_numpy(points), vectors), minlength=5) > 0).all()


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_a_killed_fit_goes_on_to_the_same_bytes(method, tmp_path, monkeypatch, capsys):
    params, rows = kmeans_params(method=method, num_codes=12, iterations=6), rows_of(blobs(1000))
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, curves = lloyd.stream(rows, 0, params, tmp_path / "whole", CPU)
    save = lloyd.save

    def die_after_three(state, path):
        save(state, path)
        if state.passes == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(lloyd, "save", die_after_three)
    with pytest.raises(KeyboardInterrupt):
        lloyd.stream(rows, 0, params, tmp_path / "killed", CPU)
    monkeypatch.setattr(lloyd, "save", save)
    resumed, again = lloyd.stream(rows, 0, params, tmp_path / "killed", CPU)
    assert torch.equal(whole, resumed) and again.rows == curves.rows
    assert "resuming at pass 3" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lloyd", "minibatch"])
def test_memory_does_not_grow_with_the_number_of_images(method, tmp_path):
    """Rows are drawn as they are read: what is held is a chunk, whether there are 5,000 of them or 40,000."""
    peak_bytes(method, 500, tmp_path / "imports")
    peaks = {images: peak_bytes(method, images, tmp_path / str(images)) for images in (500, 4_000)}
    every_vector = 4_000 * 10 * 64 * 4
    assert peaks[4_000] < 1.2 * peaks[500] and peaks[4_000] < every_vector / 3, peaks


def peak_bytes(method: str, images: int, work) -> int:
    """What one pass allocates at most."""
    work.mkdir()
    pieces = [lambda n=n: drawn(n, images // 10) for n in range(10)]
    rows = Rows(Layout([0], 1, 10, 64, False, False, {"train": images, "val": 0}), {"train": pieces, "val": []}, False)
    params = kmeans_params(method=method, iterations=1, chunk_vectors=2000)
    tracemalloc.start()
    lloyd.stream(rows, 0, params, work, CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def drawn(number: int, images: int):
    """A file of `images` arrays float16 [1, 1, 10, 64], fifty at a time in memory."""
    rng = np.random.default_rng(number)
    for _ in range(images // 50):
        yield from rng.normal(size=(50, 1, 1, 10, 64)).astype(np.float16)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 12))
def test_regrouping_keeps_rows_and_their_order(lengths, size):
    rows = np.arange(sum(lengths))[:, None]
    found = list(regroup(iter(np.split(rows, np.cumsum(lengths)[:-1])), size))
    assert np.array_equal(np.concatenate(found), rows)
    assert [len(part) for part in found[:-1]] == [size] * (len(found) - 1) and 0 < len(found[-1]) <= size


# Projection


@pytest.mark.parametrize("whiten", [0.0, 1.0])
def test_the_projection_is_scikit_learns_pca(whiten):
    from sklearn.decomposition import PCA

    points = (blobs(1000) @ np.random.default_rng(1).normal(size=(8, 8)) + 50).astype(np.float32)
    affine = fit_affine(rows_of(points), kmeans_params(pca_dim=3, whiten=whiten, chunk_vectors=70))
    found, oracle = affine.of(0, torch.from_numpy(points)).numpy(), PCA(3, whiten=bool(whiten)).fit_transform(points)
    oracle *= np.sign((found * oracle).sum(0))
    np.testing.assert_allclose(found, oracle, rtol=2e-3, atol=2e-3 * np.abs(oracle).max())


def test_partial_whitening_lies_between():
    stds = [
        fit_affine(rows_of(blobs(1000)), kmeans_params(whiten=whiten)).of(0, torch.from_numpy(blobs(1000))).std(0)
        for whiten in (0.25, 0.5, 1.0)
    ]
    spread = [float(std.max() / std.min()) for std in stds]
    assert spread[0] > spread[1] > spread[2] == pytest.approx(1, abs=1e-3)


def test_blocks_side_by_side_get_equal_weight():
    points = np.concatenate([blobs(500), 100 * blobs(500, seed=1)], 1)
    affine = fit_affine(rows_of(points, layers=2), kmeans_params(blocks=[0, 1]))
    mapped = affine.of(0, torch.from_numpy(points))
    for half in (mapped[:, :8], mapped[:, 8:]):
        assert float(half.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-4)
    assert affine.weight.shape == (1, 16), "no matrix without a projection"


# The stage


def fit_toy(toy, root, **changes):
    """The toy's k-means tokenizer with changed params, fitted in `root`."""
    shutil.copytree(toy / "data", root / "data")
    toys.write_params(root, {"codebook": {"kmeans": changes}})
    toys.run("codebook", root)
    return load_tokenizer(root / "data/codebook/kmeans"), ImageSplit(root / "data/images", "train")


def metrics_of(root):
    return json.loads((root / "reports/codebook/kmeans/metrics.json").read_text())


def test_the_report_says_how_many_vectors_were_used_and_tracks_the_objective(toy):
    figures = metrics_of(toy)
    assert figures["vectors_used"] == figures["vectors_total"] > 0
    rows = (toy / "reports/codebook/kmeans/plots/metrics/objective.tsv").read_text().splitlines()
    objective = [float(row.split("\t")[1]) for row in rows[1:]]
    assert len(objective) >= 2 and objective == sorted(objective, reverse=True)


def test_the_control_is_the_untrained_twin_of_the_encoder_and_carries_it(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, encoder="random")
    trained = load_tokenizer(toy / "data/codebook/kmeans")
    twin, encoder = tokenizer.rows_of.encoder, trained.rows_of.encoder
    weights = [net.vit.blocks[0].mlp.fc1.weight for net in (twin, encoder)]
    assert weights[0].shape == weights[1].shape and not torch.equal(*weights)
    assert tokenizer.rows_of.blocks == trained.rows_of.blocks and tokenizer.num_codes == trained.num_codes
    counts = np.bincount(tokenizer.encode(images.read(range(len(images)))).ravel(), minlength=8)
    assert (counts > 0).sum() == metrics_of(tmp_path)["train"]["live_codes"]
    shutil.rmtree(tmp_path / "data/encoder")
    load_tokenizer(tmp_path / "data/codebook/kmeans")  # needs no other encoder
    inner = tmp_path / "data/codebook/kmeans/encoder/config.json"
    inner.write_text(inner.read_text() + " ")
    with pytest.raises(UserError, match="not the encoder"):
        load_tokenizer(tmp_path / "data/codebook/kmeans")


def test_separate_layers_give_a_code_each_from_vocabularies_of_their_own(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, blocks=[0, -1], layers="separate", method="lloyd")
    pixels = images.read(range(len(images)))
    codes = tokenizer.encode(pixels)
    assert codes.shape == (len(images), 2 * 16) and (tokenizer.grid, tokenizer.num_codes) == (4, 16)
    assert codes[:, :16].max() < 8 <= codes[:, 16:].min()
    alone, _ = fit_toy(toy, tmp_path / "alone", blocks=[0], method="lloyd")
    assert np.array_equal(alone.encode(pixels), codes[:, :16])
    assert metrics_of(tmp_path)["train"]["live_codes"] == len(np.unique(codes))
    painter = OneStep(tokenizer.codebook.vectors, grid=4, groups=2, widths=[16, 8, 8], blocks=1)
    assert painter(torch.from_numpy(codes.astype(np.int64))).shape == (len(images), 3, 16, 16)


def test_projected_layers_are_looked_up_as_they_were_clustered(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, blocks=[0, 1], pca_dim=5, whiten=0.5, normalise=True)
    assert tokenizer.codebook.vectors.shape == (8, 5)
    codes = tokenizer.encode(images.read(range(len(images))))
    perplexity = np.exp(-sum(p * np.log(p) for p in np.bincount(codes.ravel()) / codes.size if p))
    assert perplexity == pytest.approx(metrics_of(tmp_path)["train"]["perplexity"], rel=0.02), "float16 apart"


def test_computed_rows_that_a_killed_fit_left_are_kept(toy, tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(lloyd, "stream", die)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(toy, tmp_path, encoder="random", method="lloyd")
    monkeypatch.undo()
    (part,) = (tmp_path / "scratch/codebook-kmeans").glob("*/train-*.npy")
    made = part.stat().st_mtime_ns
    monkeypatch.setattr("stages.codebook.rows.write_part", die)
    toys.run("codebook", tmp_path)
    assert made and not (tmp_path / "scratch/codebook-kmeans").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"blocks": [2]}, r"blocks = \[2\]: the encoder has 2 blocks: expected -2 … 1"),
        ({"blocks": [1, -1]}, "expected different blocks"),
        ({"pca_dim": 33}, "pca_dim = 33: expected at most the 32 values"),
        ({"method": "lloyd", "chunk_vectors": 4}, "at most the 4 vectors of codebook.kmeans.chunk_vectors"),
        ({"method": "lloyd", "max_vectors": 9}, "expected max_vectors: 0, got 9"),
        ({"method": "minibatch", "redo": 2}, "expected redo: 1, got 2"),
        ({"method": "lloyd", "engine": "flash"}, "expected engine: faiss"),
        ({"engine": "flash"}, "flash-kmeans; or use engine: faiss"),
        ({"whiten": 1.5}, "whiten = 1.5"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(toy, tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        fit_toy(toy, tmp_path, **changes)
    assert not (tmp_path / "scratch/codebook-kmeans").exists()


def test_the_control_differs_from_the_tokenizer_in_its_encoder_alone():
    trained, control = (
        load(f"codebook.{name}", kmeans.Params, toys.ROOT / "params.yaml") for name in ("kmeans", "kmeans_random")
    )
    assert control == trained.model_copy(update={"encoder": "random"})
