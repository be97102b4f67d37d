"""The toy of PCA and LDA against closed forms. Run: pytest tests/test_pca_vs_lda.py"""

import json

import numpy as np
import pytest
import toy as toys
from scipy.stats import multivariate_normal, norm
from toy import ROOT, write_params

from stages.core import UserError
from stages.core.params import load
from stages.studies.gaussians import PROJECTIONS, bayes_accuracy, compare, direction, draw, fit
from stages.studies.params import PcaVsLda

PARAMS = load("pca_vs_lda", PcaVsLda, ROOT / "params.yaml")
SLACK = 0.01  # sampling error of a mean over 5 seeds of 10,000 test points, and of fitting 1,000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    report = tmp_path_factory.mktemp("pca_vs_lda")
    compare(report, PARAMS)
    return report, json.loads((report / "metrics.json").read_text())


def curve(metrics: dict, case: str, kind: str) -> np.ndarray:
    return np.array([metrics[case][kind][f"sigma_{sigma:g}"] for sigma in PARAMS.noise_sigmas])


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("covariance", [[[4.0, 0.0], [0.0, 0.25]], [[1.0, 0.6], [0.6, 2.0]]])
def test_the_closed_form_is_what_the_likelihood_ratio_reaches(covariance, sigma):
    means, rng = [[-0.4, 0.2], [0.7, -0.1]], np.random.default_rng(0)
    points, labels = draw(means, covariance, 100_000, rng)
    noisy = points + sigma * rng.standard_normal(points.shape)
    first, second = (
        multivariate_normal(mean, np.add(covariance, sigma**2 * np.eye(2))).logpdf(noisy) for mean in means
    )
    reached = ((second > first) == labels).mean()
    assert bayes_accuracy(means, covariance, sigma) == pytest.approx(reached, abs=0.004)  # four standard errors


def test_the_closed_form_in_one_dimension():
    assert bayes_accuracy([[0.0, 0.0], [3.0, 0.0]], [[4.0, 0.0], [0.0, 1.0]], 0.0) == pytest.approx(norm.cdf(0.75))
    assert bayes_accuracy([[0.0, 0.0], [3.0, 0.0]], [[4.0, 0.0], [0.0, 1.0]], 1e9) == pytest.approx(0.5)


def test_classes_that_differ_across_the_widest_direction_are_lost_to_pca_and_not_to_lda(whole):
    pca, lda, bayes = (curve(whole[1], "orthogonal", kind) for kind in ("pca", "lda", "bayes"))
    assert np.abs(pca - 0.5).max() < 0.03
    assert np.abs(lda - bayes).max() < SLACK
    assert (lda >= pca - SLACK).all() and lda[0] > 0.85


def expected(case: str, kind: str, sigma: float) -> float:
    """Accuracy of a half-way threshold on the direction that infinitely many clean points give."""
    one = getattr(PARAMS, case)
    apart, within = np.subtract(one.means[1], one.means[0]), np.array(one.covariance)
    if kind == "lda":
        axis = np.linalg.solve(within, apart)
    else:
        axis = np.linalg.eigh(within + np.outer(apart, apart) / 4)[1][:, -1]
    spread = np.sqrt(axis @ (within + sigma**2 * np.eye(2)) @ axis)
    return float(norm.cdf(abs(axis @ apart) / 2 / spread))


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_accuracies_are_those_of_the_populations_directions(whole, kind):
    found = curve(whole[1], "oblique", kind)
    assert found == pytest.approx([expected("oblique", kind, sigma) for sigma in PARAMS.noise_sigmas], abs=SLACK)


def test_lda_leads_on_clean_points_nobody_passes_bayes_and_noise_only_harms(whole):
    for case in ("orthogonal", "oblique"):
        pca, lda, bayes = (curve(whole[1], case, kind) for kind in ("pca", "lda", "bayes"))
        assert lda[0] > pca[0] + 0.1
        assert (lda < bayes + SLACK).all() and (pca < bayes + SLACK).all()
        assert (np.diff(lda) < SLACK).all() and (np.diff(bayes) < 0).all()


def test_lda_can_lose_its_lead_where_it_was_fitted_on_clean_points_alone(whole):
    pca, lda = (curve(whole[1], "oblique", kind) for kind in ("pca", "lda"))
    assert pca[-1] > lda[-1] + SLACK
    case, rng, sigma = PARAMS.oblique, np.random.default_rng(0), PARAMS.noise_sigmas[-1]
    sets = []
    for count in (20_000, 50_000):
        points, labels = draw(case.means, case.covariance, count, rng)
        sets.append((points + sigma * rng.standard_normal(points.shape), labels))
    refitted = fit("lda", *sets[0]).score(*sets[1])
    assert refitted == pytest.approx(bayes_accuracy(case.means, case.covariance, sigma), abs=SLACK)


def test_directions_are_those_of_numpy():
    points, labels = draw([[-1.0, 0.5], [1.0, 0.2]], [[1.0, 0.6], [0.6, 2.0]], 200, np.random.default_rng(0))
    apart = points[labels == 1].mean(0) - points[labels == 0].mean(0)
    within = sum(np.cov(points[labels == label].T, bias=True) for label in (0, 1))
    wanted = {"pca": np.linalg.eigh(np.cov(points.T))[1][:, -1], "lda": np.linalg.solve(within, apart)}
    for kind, axis in wanted.items():
        found = direction(fit(kind, points, labels))
        assert abs(found @ axis) / np.linalg.norm(axis) == pytest.approx(1) and found[0] >= 0


def test_tables_picture_and_protocol_and_the_same_bytes_again(whole, tmp_path):
    report, metrics = whole
    compare(tmp_path, PARAMS)
    assert toys.hashes(tmp_path) == toys.hashes(report)
    header, *rows = (report / "oblique.tsv").read_text().splitlines()
    assert header == "noise_sigma\tpca\tlda\tbayes" and len(rows) == len(PARAMS.noise_sigmas)
    assert [entry["of"] for entry in metrics["protocol"]] == ["orthogonal", "oblique"]
    assert (report / "pca_vs_lda.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("changes", "said"), [
    ({"oblique": {"covariance": [[1.0, 2.0], [2.0, 1.0]]}}, "covariance = [[1.0, 2.0], [2.0, 1.0]]: expected a symm"),
    ({"oblique": {"covariance": [[1.0, 0.5], [0.4, 1.0]]}}, "positive definite"),
    ({"oblique": {"covariance": [[1.0], [0.4]]}}, "pca_vs_lda.oblique.covariance.0"),
    ({"orthogonal": {"means": [[1.0, 0.0], [1.0, 0.0]]}}, "expected two different points"),
    ({"orthogonal": {"covariances": []}}, "unknown key; pca_vs_lda.orthogonal has means, covariance"),
    ({"noise_sigmas": [-1.0]}, "pca_vs_lda.noise_sigmas.0 = -1.0"),
    ({"seeds": [1, 1]}, "seeds: [1, 1]: expected different"),
])  # fmt: skip
def test_impossible_settings_are_named(changes, said, tmp_path):
    with pytest.raises(UserError) as caught:
        load("pca_vs_lda", PcaVsLda, write_params(tmp_path, {"pca_vs_lda": changes}))
    assert said in str(caught.value)
