"""Two Gaussian classes in a plane with one covariance and equal priors: accuracies after PCA and LDA under noise."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline

from stages.core.distributed import seed_of
from stages.core.results import save_figure, write_metrics, write_table
from stages.studies.params import Case, PcaVsLda

CASES, PROJECTIONS = ("orthogonal", "oblique"), ("pca", "lda")
COLORS = {"pca": "#d2691e", "lda": "#2563a8", "bayes": "#5d6675"}
TITLES = {"pca": "PCA", "lda": "LDA", "bayes": "Bayes limit"}
CLASS_COLORS = ("#8fb4d8", "#e0b48f")
POINTS_SHOWN = 300  # per class

Accuracies = dict[str, dict[str, float]]  # {pca, lda: {level, level_std}, bayes: {level}}


def compare(report: Path, params: PcaVsLda) -> None:
    """Write metrics.json, <case>.tsv and pca_vs_lda.png to the folder `report`."""
    metrics = {name: accuracies(name, params) for name in CASES}
    write_metrics(report, {**metrics, "protocol": [protocol(name, params) for name in CASES]})
    for name in CASES:
        rows = [(sigma, *(values[level(sigma)] for values in metrics[name].values())) for sigma in params.noise_sigmas]
        write_table(report / f"{name}.tsv", ["noise_sigma", *metrics[name]], rows)
        least = params.noise_sigmas[0]
        found = {key: f"{values[level(least)]:.3f}" for key, values in metrics[name].items()}
        print(f"pca_vs_lda: {name}, sigma {least:g}: {found}")
    save_plots(report / "pca_vs_lda.png", metrics, params)


def level(sigma: float) -> str:
    """The name of a noise level's metrics."""
    return f"sigma_{sigma:g}"


def accuracies(name: str, params: PcaVsLda) -> Accuracies:
    """The accuracies of a case, means over seeds."""
    case: Case = getattr(params, name)
    by_seed = np.stack([seed_accuracies(name, case, seed, params) for seed in params.seeds])
    means, stds = by_seed.mean(0), by_seed.std(0, ddof=1)
    found: Accuracies = {kind: {} for kind in (*PROJECTIONS, "bayes")}
    for place, sigma in enumerate(params.noise_sigmas):
        for row, kind in enumerate(PROJECTIONS):
            found[kind] |= {level(sigma): float(means[row, place]), f"{level(sigma)}_std": float(stds[row, place])}
        found["bayes"][level(sigma)] = bayes_accuracy(case.means, case.covariance, sigma)
    return found


def seed_accuracies(name: str, case: Case, seed: int, params: PcaVsLda) -> np.ndarray:
    """float64 [PROJECTIONS, levels] of one seed; every level scales the same noise."""
    rng = np.random.default_rng(seed_of("projection", name, seed))
    train, train_labels = draw(case.means, case.covariance, params.train_samples, rng)
    test, labels = draw(case.means, case.covariance, params.test_samples, rng)
    noise = rng.standard_normal(test.shape)
    fitted = [fit(kind, train, train_labels) for kind in PROJECTIONS]
    return np.array([[one.score(test + sigma * noise, labels) for sigma in params.noise_sigmas] for one in fitted])


def draw(
    means: list[list[float]], covariance: list[list[float]], per_class: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [2 * per_class, 2] points, the first class first, and their labels int64: 0 or 1."""
    points = [rng.multivariate_normal(mean, covariance, per_class, method="cholesky") for mean in means]
    return np.concatenate(points), np.repeat([0, 1], per_class)


def bayes_accuracy(means: list[list[float]], covariance: list[list[float]], noise_sigma: float) -> float:
    """Accuracy of the Bayes classifier, which knows both distributions, on points with noise of this deviation.

    With S = covariance + noise_sigma² I and d the difference of the means, the log-likelihood ratio is normal with
    mean ±D²/2 and variance D², D² = dᵀ S⁻¹ d; its sign is right with probability Phi(D/2) (Fisher 1936; Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, 4.3).
    """
    difference = np.subtract(means[1], means[0])
    noisy = np.asarray(covariance) + noise_sigma**2 * np.eye(2)
    distance = math.sqrt(difference @ np.linalg.solve(noisy, difference))
    return 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))


def fit(kind: str, points: np.ndarray, labels: np.ndarray) -> Any:
    """A projection to one dimension, and the same classifier after either projection."""
    project = PCA(n_components=1) if kind == "pca" else LinearDiscriminantAnalysis(n_components=1)
    return make_pipeline(project, LinearDiscriminantAnalysis()).fit(points, labels)


def direction(fitted: Any) -> np.ndarray:
    """float64 [2]: the unit vector onto which a fitted pipeline projects, its first component not negative."""
    project = fitted[0]
    axis = project.components_[0] if hasattr(project, "components_") else project.scalings_[:, 0]
    return axis / np.linalg.norm(axis) * (1 if axis[0] >= 0 else -1)


def save_plots(path: Path, metrics: dict[str, Accuracies], params: PcaVsLda) -> None:
    """Write one row of plots per case: points with the two directions, and accuracy over noise."""
    figure = Figure(figsize=(9, 3.2 * len(metrics)), dpi=110, layout="constrained")
    rows = figure.subplots(len(metrics), 2, squeeze=False)
    for (left, right), (name, found) in zip(rows, metrics.items(), strict=True):
        plot_points(left, name, params)
        plot_accuracies(right, found, params.noise_sigmas)
    save_figure(path, figure)


def plot_points(axis: Axes, name: str, params: PcaVsLda) -> None:
    """Training points of the first seed, and through their mean one line along each direction fitted on them."""
    case: Case = getattr(params, name)
    rng = np.random.default_rng(seed_of("projection", name, params.seeds[0]))
    points, labels = draw(case.means, case.covariance, params.train_samples, rng)
    for label, color in enumerate(CLASS_COLORS):
        own = points[labels == label][:POINTS_SHOWN]
        axis.plot(own[:, 0], own[:, 1], ".", color=color, markersize=3, label=f"class {label}")
    center, length = points.mean(0), points.std(0).max() * 2
    for kind in PROJECTIONS:
        unit = direction(fit(kind, points, labels))
        ends = [center - length * unit, center + length * unit]
        axis.plot(*zip(*ends, strict=True), color=COLORS[kind], label=f"{TITLES[kind]} projects onto")
    axis.set_title(f"{name}: clean points", fontsize=9, loc="left")
    axis.set_aspect("equal", adjustable="datalim")
    set_style(axis)


def plot_accuracies(axis: Axes, found: Accuracies, sigmas: list[float]) -> None:
    """Accuracy over the deviation of the noise."""
    for kind, values in found.items():
        curve, style = [values[level(sigma)] for sigma in sigmas], "--" if kind == "bayes" else "-"
        axis.plot(sigmas, curve, style, color=COLORS[kind], label=TITLES[kind], linewidth=1.4, marker=".")
    axis.set_ylim(0.45, 1)
    axis.set_title("accuracy by noise sigma", fontsize=9, loc="left")
    set_style(axis)


def set_style(axis: Axes) -> None:
    """The report's style of plots."""
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)


def protocol(name: str, params: PcaVsLda) -> dict[str, Any]:
    """How a case's metrics were measured."""
    case: Case = getattr(params, name)
    drawn = {"train_samples": params.train_samples, "test_samples": params.test_samples, "point_seeds": params.seeds}
    how = {"noise": "on test points alone", "classifier": "threshold half-way between the projected class means"}
    return {"of": name, **case.model_dump(), **drawn, "noise_sigmas": params.noise_sigmas, **how}
