"""k-means in several processes that share the features makes the codebook of one.

Run: uv run pytest tests/test_kmeans_shared.py     (with -m slow: every method in two and three processes)
"""

import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import forks
import numpy as np
import pytest
import toy as toys
from blobs import CPU, blobs, features_of, kmeans_params
from ranks import run_together
from safetensors.numpy import load_file

from stages.codebook import kmeans, streaming
from stages.core.artifact import read_config
from stages.core.hardware import process_group

CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # sums in float64, in another order: a last digit of float32, if any
SETTINGS = {
    "sample": {"max_vectors": 300},
    "lloyd": {"method": "lloyd", "start_iterations": 1, "init": "kmeans||", "pca_dim": 5, "whiten": 0.5},
    "minibatch": {"method": "minibatch", "batch_vectors": 256},
    "twin": {"method": "lloyd", "encoder": "random", "blocks": [0, 1], "layers": "separate"},
}
POINTS = {"num_codes": 12, "iterations": 4, "batch_vectors": 5000, "chunk_vectors": 7000, "start_iterations": 1}


def clustered(method: str, work: Path) -> np.ndarray:
    """float32 [12, 8] of 20,000 vectors in seven files."""
    work.mkdir(exist_ok=True)
    params = kmeans_params(method=method, **POINTS)
    return streaming.stream(features_of(blobs(20_000)), 0, params, work, CPU)[0].numpy()


def cluster_as(method: str, work: Path, env: dict[str, str]) -> None:
    """In a process of several: write what it ends with."""
    os.environ.update(env)
    with process_group():
        np.save(work / f"{method}-{env['RANK']}.npy", clustered(method, work / method))


def clustered_together(method: str, work: Path, count: int) -> list[np.ndarray]:
    """What each of `count` processes ends with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    every = [forks.process(cluster_as, method, work, {**group, "RANK": str(rank)}) for rank in range(count)]
    for child in every:
        child.start()
    for child in every:
        child.join(60)
    assert [child.exitcode for child in every] == [0] * count
    return [np.load(work / f"{method}-{rank}.npy") for rank in range(count)]


@pytest.mark.parametrize(("method", "count"), [("lloyd", 3), ("minibatch", 2)])
def test_every_process_ends_with_the_vectors_of_one(method, count, tmp_path):
    expected = clustered(method, tmp_path / "one")
    found = clustered_together(method, tmp_path, count)
    assert all(np.array_equal(found[0], one) for one in found)
    np.testing.assert_allclose(found[0], expected, **CLOSE)


def test_what_the_first_process_finds_can_be_sent(monkeypatch, tmp_path):
    params = kmeans_params(method="sample", **POINTS)
    work = (features_of(blobs(2_000)), 0, 2_000, params, tmp_path, CPU)
    vectors, curves = kmeans.cluster(*work)
    monkeypatch.setattr(kmeans, "from_first", lambda find: pickle.loads(pickle.dumps(find())))
    sent, sent_curves = kmeans.cluster(*work)
    assert np.array_equal(sent, vectors) and sent_curves.rows == curves.rows != []


def fitted(toy: Path, root: Path, settings: dict, count: int) -> dict[str, np.ndarray]:
    """The vectors and the map of the toy's k-means tokenizer, fitted by `count` processes."""
    shutil.copytree(toy / "data", root / "data")
    shutil.rmtree(root / "data/codebook")
    toys.write_params(root, {"codebook": {"kmeans": settings}})
    assert run_together("codebook", root, count) == [0] * count, (root / "codebook-0.log").read_text()
    book = root / "data/codebook/kmeans"
    files = [name for name in read_config(book, "codebook")["files"] if name.endswith(".safetensors")]
    return {f"{name}/{key}": one for name in files for key, one in load_file(book / name).items()}


def metrics_of(root: Path) -> dict:
    return json.loads((root / "reports/codebook/kmeans/metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_processes_fits_the_codebook_of_one(name, toy, tmp_path):
    expected = fitted(toy, tmp_path / "1", SETTINGS[name], 1)
    for count in (2, 3):
        found = fitted(toy, tmp_path / str(count), SETTINGS[name], count)
        assert found.keys() == expected.keys()
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], **CLOSE, err_msg=key)
        assert metrics_of(tmp_path / str(count)) == metrics_of(tmp_path / "1")
        assert len([*(tmp_path / str(count)).glob("scratch/data-codebook-kmeans/*/published.json")]) == 1
