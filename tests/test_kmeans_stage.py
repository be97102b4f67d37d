"""The k-means tokenizers that the codebook stage fits on the toy pipeline, and the settings that it refuses.

Run: uv run pytest tests/test_kmeans_stage.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
import toy as toys

from stages.codebook import kmeans
from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError
from stages.data.reader import ImageSplit
from stages.decoder.onestep import OneStep


def fit_toy(toy, root, **changes):
    """The toy's k-means tokenizer with changed params, fitted in `root`."""
    shutil.copytree(toy / "data", root / "data")
    toys.write_params(root, {"codebook": {"kmeans": changes}})
    toys.run("codebook", root)
    return load_tokenizer(root / "data/codebook/kmeans"), ImageSplit(root / "data/images", "train")


def metrics_of(root):
    return json.loads((root / "reports/codebook/kmeans/metrics.json").read_text())


def test_the_report_says_how_many_vectors_were_used_and_tracks_the_objective(toy):
    metrics = metrics_of(toy)
    assert metrics["vectors_used"] == metrics["vectors_total"] > 0
    rows = (toy / "reports/codebook/kmeans/plots/metrics/objective.tsv").read_text().splitlines()
    objective = [float(row.split("\t")[1]) for row in rows[1:]]
    assert len(objective) >= 2 and objective == sorted(objective, reverse=True)


def test_the_report_is_whole_before_the_codebook_appears_and_stays_as_it_is(toy, tmp_path, monkeypatch):
    seen, publish = {}, kmeans.publish
    report = tmp_path / "reports/codebook/kmeans"
    monkeypatch.setattr(kmeans, "publish", lambda *args: seen.update(toys.hashes(report)) or publish(*args))
    fit_toy(toy, tmp_path)
    assert seen == toys.hashes(report) and {"metrics.json", "plots/metrics/objective.tsv"} <= {*map(str, seen)}
    last = (report / "plots/metrics/objective.tsv").read_text().split()[-1]
    assert metrics_of(tmp_path)["objective"] == pytest.approx(float(last), rel=1e-5)


def test_few_live_codes_are_said_on_the_console_and_counted_in_the_report(toy, tmp_path, monkeypatch, capsys):
    def three_near(*args, cluster=kmeans.cluster):
        vectors, curves = cluster(*args)
        vectors[3:] += 1e6
        return vectors, curves

    fit_toy(toy, tmp_path / "all")
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr(kmeans, "cluster", three_near)
    fit_toy(toy, tmp_path)
    assert "warning: kmeans: only 3 of 8 codes (38 %) are in use on train. To fix it, lower" in capsys.readouterr().err
    assert (metrics_of(tmp_path)["num_codes"], metrics_of(tmp_path)["train"]["live_codes"]) == (8, 3)


def test_the_control_is_the_untrained_twin_of_the_encoder(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, encoder="random")
    trained = load_tokenizer(toy / "data/codebook/kmeans")
    twin, encoder = tokenizer.encoder.encoder, trained.encoder.encoder
    weights = [net.vit.blocks[0].mlp.fc1.weight for net in (twin, encoder)]
    assert weights[0].shape == weights[1].shape and not torch.equal(*weights)
    assert tokenizer.encoder.blocks == trained.encoder.blocks and tokenizer.num_codes == trained.num_codes
    counts = np.bincount(tokenizer.encode(images.read(range(len(images)))).ravel(), minlength=8)
    assert (counts > 0).sum() == metrics_of(tmp_path)["train"]["live_codes"]


def test_separate_layers_give_one_code_each_from_their_own_codebooks(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, blocks=[0, -1], layers="separate", method="lloyd")
    pixels = images.read(range(len(images)))
    codes = tokenizer.encode(pixels)
    assert tokenizer.encode(pixels[:0]).shape == (0, 2 * 16)
    assert codes.shape == (len(images), 2 * 16) and (tokenizer.grid, tokenizer.num_codes) == (4, 16)
    assert codes[:, :16].max() < 8 <= codes[:, 16:].min()
    alone, _ = fit_toy(toy, tmp_path / "alone", blocks=[0], method="lloyd")
    assert np.array_equal(alone.encode(pixels), codes[:, :16])
    assert metrics_of(tmp_path)["train"]["live_codes"] == len(np.unique(codes))
    network = OneStep(tokenizer.codebook.vectors, codebooks=2, widths=[16, 8, 8], blocks=1)
    assert network(torch.from_numpy(codes.astype(np.int64))).shape == (len(images), 3, 16, 16)


def test_projected_layers_are_looked_up_as_they_were_clustered(toy, tmp_path):
    tokenizer, images = fit_toy(toy, tmp_path, blocks=[0, 1], pca_dim=5, whiten=0.5, normalize=True)
    assert tokenizer.codebook.vectors.shape == (8, 5)
    codes = tokenizer.encode(images.read(range(len(images))))
    perplexity = np.exp(-sum(p * np.log(p) for p in np.bincount(codes.ravel()) / codes.size if p))
    assert perplexity == pytest.approx(metrics_of(tmp_path)["train"]["perplexity"], rel=0.02), "float16 apart"


def test_computed_features_that_a_killed_fit_left_are_kept(toy, tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(kmeans, "stream", die)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(toy, tmp_path, encoder="random", method="lloyd")
    monkeypatch.undo()
    assert list((tmp_path / "scratch/data-codebook-kmeans").glob("*/train-*.npy"))
    monkeypatch.setattr("stages.codebook.kmeans_features.write_part", die)
    toys.run("codebook", tmp_path)
    assert load_tokenizer(tmp_path / "data/codebook/kmeans").num_codes == 8


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"blocks": [2]}, r"blocks = 2: the encoder has 2 blocks: expected -2 … 1"),
        ({"blocks": [1, -1]}, "expected different blocks"),
        ({"pca_dim": 33}, "pca_dim = 33: expected at most the 32 values"),
        ({"method": "lloyd", "chunk_vectors": 4}, "at most the 4 vectors of codebook.kmeans.chunk_vectors"),
        ({"method": "lloyd", "max_vectors": 9}, "expected max_vectors: 0, got 9"),
        ({"method": "minibatch", "redo": 2}, "expected redo: 1, got 2"),
        ({"init": "kmeans||"}, "kmeans.. is of methods lloyd and minibatch"),
        (
            {"method": "minibatch", "chunk_vectors": 100, "batch_vectors": 101},
            "batch_vectors = 101: expected at most the 100",
        ),
        ({"method": "lloyd", "engine": "flash"}, "expected engine: faiss"),
        ({"engine": "flash"}, "flash-kmeans; or use engine: faiss"),
        ({"whiten": 1.5}, "whiten = 1.5"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(toy, tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        fit_toy(toy, tmp_path, **changes)
    assert not (tmp_path / "scratch").exists()
