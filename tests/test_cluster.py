"""cluster: codes that learn online from stored features, against scikit-learn, and how dead ones return.

Run: uv run pytest tests/test_cluster.py
"""

import contextlib
import json
import math
import shutil

import pytest
import torch
import toy as toys
from sklearn.cluster import KMeans
from torch.nn import functional as F

from stages.codebook import cluster
from stages.codebook.cluster import OnlineClusters
from stages.codebook.dead_codes import kept_fraction, live_fraction, revive_dead_codes, running_share
from stages.codebook.quantizers import load_codebook, nearest
from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError, artifact
from stages.core.checkpoint import Checkpoint
from stages.features.reader import FeatureSplit


def blobs(count: int = 1200, centers: int = 12, dim: int = 16) -> torch.Tensor:
    """Rows of different lengths around well separated directions."""
    torch.manual_seed(0)
    middle = F.normalize(torch.randn(centers, dim), dim=-1)
    features = middle[torch.randint(centers, (count,))] + 0.08 * torch.randn(count, dim)
    return features * (0.5 + torch.rand(count, 1) * 4)


def learn(features: torch.Tensor, num_codes: int, revive: bool, steps: int = 300) -> OnlineClusters:
    """Adam on batches of 128 features."""
    torch.manual_seed(1)
    model = OnlineClusters(num_codes, features.shape[1], revive).train()
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.9))
    for _ in range(steps):
        loss, _ = model(features[torch.randint(len(features), (128,))])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.eval()


def objective(features: torch.Tensor, vectors: torch.Tensor) -> float:
    """Mean of 1 - cos to the nearest vector."""
    cosines = F.normalize(features, dim=-1) @ F.normalize(vectors.detach(), dim=-1).T
    return float((1 - cosines.max(1).values).mean())


def test_it_comes_near_scikit_learns_spherical_objective_on_separated_blobs():
    features = blobs()
    model = learn(features, 36, revive=True)
    reference = KMeans(36, n_init=5, random_state=0).fit(F.normalize(features, dim=-1).numpy())
    best = objective(features, torch.from_numpy(reference.cluster_centers_))
    assert best <= objective(features, model.vectors) < 1.1 * best
    assert float(model(features)[1]["cosine_loss"]) == pytest.approx(objective(features, model.vectors), abs=1e-6)


def test_without_revival_half_of_the_codes_are_dead_and_with_it_hardly_one():
    features = blobs()
    codes = [learn(features, 36, revive).assign(F.normalize(features, dim=-1)) for revive in (False, True)]
    dead = [36 - len(each.unique()) for each in codes]
    assert dead[0] > 12 and dead[1] < 4, dead


def test_the_loss_is_the_mean_square_distance_of_unit_features_and_moves_codes_alone():
    features, model = blobs(20).requires_grad_(), OnlineClusters(8, 16, revive=False)
    loss, _ = model(features)
    loss.backward()
    unit = F.normalize(features.detach(), dim=-1)
    codes = model.assign(unit)
    expected = (model.vectors.detach()[codes] - unit).square().mean()
    torch.testing.assert_close(loss.detach(), expected)
    assert features.grad is None
    unused = torch.bincount(codes, minlength=8) == 0
    assert not model.vectors.grad[unused].any() and model.vectors.grad[~unused].any()


def test_codes_start_within_one_over_k_and_the_largest_cosine_wins():
    features, model = blobs(200), OnlineClusters(50, 16, revive=False)
    assert model.vectors.abs().max() <= 1 / 50
    expected = F.cosine_similarity(features[:, None], model.vectors.detach()[None], dim=-1).argmax(1)
    assert torch.equal(model.assign(F.normalize(features, dim=-1)), expected)


def test_revival_moves_dead_codes_to_their_nearest_feature_and_leaves_used_ones():
    """Papers, statement 18."""
    decay = kept_fraction(torch.tensor([0.0, 0.25, 0.25, 0.25]))
    assert float(decay[0]) == pytest.approx(1 - math.exp(-1e-3), rel=1e-3)  # 0.0009995
    assert decay[1] == 1
    vectors, features = torch.randn(4, 3), torch.randn(30, 3)
    before = vectors.clone()
    revive_dead_codes(vectors, torch.tensor([0.0, 0.25, 0.5, 0.25]), features)
    near = features[nearest(before[:1], features)][0]
    torch.testing.assert_close(vectors[0], 0.0009995 * before[0] + 0.9990005 * near)
    assert torch.equal(vectors[1:], before[1:])


def test_the_running_share_sums_to_one_and_forgets_with_its_decay():
    share = torch.full((4,), 0.25)
    for _ in range(100):
        share = running_share(share, torch.zeros(5, 2, dtype=torch.long))
    torch.testing.assert_close(share[1:], torch.full((3,), 0.25 * 0.99**100))
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    assert live_fraction(torch.tensor([1.0, 0.0, 0.0, 0.0])) == 0.25


def fit(root, changes: dict | None = None) -> None:
    """The command, as it is called."""
    toys.write_params(root, {"codebook": {"cluster": changes or {}}, "machine": {"checkpoint_share": 1.0}})
    toys.run_line(toys.COMMANDS["tokenizer_inputs"].replace("kmeans", "cluster"), root)
    toys.run_line(toys.COMMANDS["codebook"].replace("kmeans", "cluster"), root)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """The toy with an undisturbed cluster tokenizer; its curves are of two images. Read only."""
    root = tmp_path_factory.mktemp("cluster") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "EVAL_IMAGES", 2)
        fit(root)
    return root


@pytest.fixture
def root(toy, tmp_path):
    return shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))


def test_the_artifact_assigns_as_training_did_and_metrics_are_of_all_images(trained):
    folder = trained / "data/codebook/cluster"
    codebook = load_codebook(folder, artifact.read_config(folder, "codebook"))
    torch.testing.assert_close(codebook.vectors.norm(dim=1), torch.ones(8))
    split = FeatureSplit(trained / "data/features", "val")
    features = torch.from_numpy(split.read(range(len(split)))).float()
    cosines = F.cosine_similarity(features[:, :, None], codebook.vectors, dim=-1)
    assert torch.equal(codebook.assign(features), cosines.argmax(-1))
    metrics = json.loads((trained / "reports/codebook/cluster/metrics.json").read_text())
    assert metrics["val"]["live_codes"] == len(codebook.assign(features).unique()) > 4
    assert metrics["cosine_loss"]["val"] == pytest.approx(objective(features.flatten(0, 1), codebook.vectors), abs=1e-5)
    assert load_tokenizer(folder).num_patches == 16


class Killed(Exception):
    """What ends a run after a checkpoint."""


def test_interrupted_and_rerun_equals_undisturbed(trained, root, monkeypatch, capsys):
    def save_and_die(self, facts, save=Checkpoint.save):
        save(self, facts)
        self.finish()
        if facts["step"] == 7:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Checkpoint, "save", save_and_die)
        fit(root)
    assert not (root / "data/codebook/cluster").exists()
    fit(root)
    assert "resuming at step 7" in capsys.readouterr().out
    assert toys.hashes(root / "data/codebook/cluster") == toys.hashes(trained / "data/codebook/cluster")


def test_a_collapse_is_said_with_its_remedy(root, capsys):
    fit(root, {"num_codes": 100, "revive_dead_codes": False})
    said = capsys.readouterr().err
    folder, split = root / "data/codebook/cluster", FeatureSplit(root / "data/features", "train")
    codebook = load_codebook(folder, artifact.read_config(folder, "codebook"))
    live = len(codebook.assign(torch.from_numpy(split.read(range(len(split)))).float()).unique())
    assert f"warning: cluster: only {live} of 100 codes ({live} %) are in use" in said, "counted, no running average"
    assert said.count("revive_dead_codes: true") > 1 and "recent batches chose" in said


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
