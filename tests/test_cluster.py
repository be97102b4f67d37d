"""cluster: codes that learn online from stored features, against scikit-learn, and how dead ones return.

Run: uv run pytest tests/test_cluster.py
"""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
import toy as toys
from sklearn.cluster import KMeans
from torch.nn import functional as F

from stages.codebook import cluster
from stages.codebook.anchor import anchor_decay, live_fraction, reanchor, running_share
from stages.codebook.model import load_codebook, load_tokenizer
from stages.codebook.online import OnlineClusters
from stages.codebook.quantise import nearest
from stages.core import artefact, shards
from stages.core.checkpoint import Checkpoint
from stages.core.errors import UserError
from stages.features.reader import FeatureSplit


def blobs(count: int = 1200, centres: int = 12, dim: int = 16) -> torch.Tensor:
    """Rows of different lengths around well separated directions."""
    torch.manual_seed(0)
    middle = F.normalize(torch.randn(centres, dim), dim=-1)
    rows = middle[torch.randint(centres, (count,))] + 0.08 * torch.randn(count, dim)
    return rows * (0.5 + torch.rand(count, 1) * 4)


def learn(rows: torch.Tensor, num_codes: int, anchored: bool, steps: int = 300) -> OnlineClusters:
    """Adam on batches of 128 rows."""
    torch.manual_seed(1)
    model = OnlineClusters(num_codes, rows.shape[1], anchored).train()
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.9))
    for _ in range(steps):
        loss, _ = model(rows[torch.randint(len(rows), (128,))])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.eval()


def objective(rows: torch.Tensor, vectors: torch.Tensor) -> float:
    """Mean of 1 - cos to the nearest vector."""
    cosines = F.normalize(rows, dim=-1) @ F.normalize(vectors.detach(), dim=-1).T
    return float((1 - cosines.max(1).values).mean())


def test_it_comes_near_scikit_learns_spherical_objective_on_separated_blobs():
    rows = blobs()
    model = learn(rows, 36, anchored=True)
    reference = KMeans(36, n_init=5, random_state=0).fit(F.normalize(rows, dim=-1).numpy())
    best = objective(rows, torch.from_numpy(reference.cluster_centers_))
    assert best <= objective(rows, model.vectors) < 1.1 * best
    assert float(model(rows)[1]["cosine_loss"]) == pytest.approx(objective(rows, model.vectors), abs=1e-6)


def test_without_anchors_half_of_the_codes_are_dead_and_with_them_hardly_one():
    rows = blobs()
    codes = [learn(rows, 36, anchored).assign(F.normalize(rows, dim=-1)) for anchored in (False, True)]
    dead = [36 - len(each.unique()) for each in codes]
    assert dead[0] > 12 and dead[1] < 4, dead


def test_the_loss_is_the_mean_square_distance_of_unit_rows_and_moves_codes_alone():
    rows, model = blobs(20).requires_grad_(), OnlineClusters(8, 16, anchored=False)
    loss, _ = model(rows)
    loss.backward()
    unit = F.normalize(rows.detach(), dim=-1)
    codes = model.assign(unit)
    expected = (model.vectors.detach()[codes] - unit).square().mean()
    torch.testing.assert_close(loss.detach(), expected)
    assert rows.grad is None
    unused = torch.bincount(codes, minlength=8) == 0
    assert not model.vectors.grad[unused].any() and model.vectors.grad[~unused].any()


def test_codes_start_within_one_over_k_and_the_largest_cosine_wins():
    rows, model = blobs(200), OnlineClusters(50, 16, anchored=False)
    assert model.vectors.abs().max() <= 1 / 50
    expected = F.cosine_similarity(rows[:, None], model.vectors.detach()[None], dim=-1).argmax(1)
    assert torch.equal(model.assign(F.normalize(rows, dim=-1)), expected)


def test_an_anchor_moves_dead_codes_to_their_nearest_row_and_leaves_used_ones():
    """Papers, statement 18."""
    decay = anchor_decay(torch.tensor([0.0, 0.25, 0.25, 0.25]))
    assert float(decay[0]) == pytest.approx(1 - math.exp(-1e-3), rel=1e-3)  # 0.0009995
    assert decay[1] == 1
    vectors, rows = torch.randn(4, 3), torch.randn(30, 3)
    before = vectors.clone()
    reanchor(vectors, torch.tensor([0.0, 0.25, 0.5, 0.25]), rows)
    near = rows[nearest(before[:1], rows)][0]
    torch.testing.assert_close(vectors[0], 0.0009995 * before[0] + 0.9990005 * near)
    assert torch.equal(vectors[1:], before[1:])


def test_the_running_share_sums_to_one_and_forgets_with_its_decay():
    share = torch.full((4,), 0.25)
    for _ in range(100):
        share = running_share(share, torch.zeros(5, 2, dtype=torch.long))
    torch.testing.assert_close(share[1:], torch.full((3,), 0.25 * 0.99**100))
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    assert live_fraction(torch.tensor([1.0, 0.0, 0.0, 0.0])) == 0.25


def test_features_are_read_in_any_order(toy):
    stored = [array for _, array in shards.read_arrays(toy / "data/features", "features", "train")]
    split, wanted = FeatureSplit(toy / "data/features", "train"), [20, 3, 3, len(stored) - 1]
    assert len(split) == len(stored)
    assert np.array_equal(split.read(wanted), np.stack([stored[i] for i in wanted]))
    assert split.read(wanted).dtype == np.float16


def fit(root, changes: dict | None = None) -> None:
    """The command, as it is called."""
    toys.write_params(root, {"codebook": {"cluster": changes or {}}, "machine": {"checkpoint_secs": 0.0}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(toys.COMMANDS, "cluster", toys.COMMANDS["codebook"].replace("kmeans", "cluster"))
        toys.run("cluster", root)


@pytest.fixture
def root(toy, tmp_path):
    return shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))


def test_the_artefact_assigns_as_training_did_and_figures_are_of_all_images(root, monkeypatch):
    monkeypatch.setattr(cluster, "WATCHED", 2)
    fit(root)
    folder = root / "data/codebook/cluster"
    codebook = load_codebook(folder, artefact.read_config(folder, "codebook"))
    torch.testing.assert_close(codebook.vectors.norm(dim=1), torch.ones(8))
    split = FeatureSplit(root / "data/features", "val")
    feats = torch.from_numpy(split.read(range(len(split)))).float()
    cosines = F.cosine_similarity(feats[:, :, None], codebook.vectors, dim=-1)
    assert torch.equal(codebook.assign(feats), cosines.argmax(-1))
    figures = json.loads((root / "reports/codebook/cluster/metrics.json").read_text())
    assert figures["val"]["live_codes"] == len(codebook.assign(feats).unique()) > 4
    assert figures["cosine_loss"]["val"] == pytest.approx(objective(feats.flatten(0, 1), codebook.vectors), abs=1e-5)
    assert load_tokenizer(folder).num_patches == 16


class Killed(Exception):
    """What ends a run after a checkpoint."""


def test_interrupted_and_rerun_equals_undisturbed(root, monkeypatch, capsys):
    fit(root)
    undisturbed = toys.hashes(root / "data/codebook/cluster")
    shutil.rmtree(root / "data/codebook/cluster")

    def save_and_die(self, facts, save=Checkpoint.save):
        save(self, facts)
        if facts["step"] == 7:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Checkpoint, "save", save_and_die)
        fit(root)
    assert not (root / "data/codebook/cluster").exists()
    fit(root)
    assert "resuming at step 7" in capsys.readouterr().out
    assert toys.hashes(root / "data/codebook/cluster") == undisturbed


def test_a_collapse_is_said_with_its_remedy(root, capsys):
    fit(root, {"num_codes": 100, "reanchor": False})
    said = capsys.readouterr().err
    assert "warning: cluster: only" in said and "reanchor: true" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_codes": 10**6}, ["codebook.cluster.num_codes = 1000000", "vectors"]),
        ({"optim": {"precision": "bf16"}}, ["codebook.cluster.optim: precision = 'bf16'", "expected fp32"]),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(root, changes, words):
    with pytest.raises(UserError) as said:
        fit(root, changes)
    assert all(word in str(said.value) for word in words), said.value
