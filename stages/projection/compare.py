"""Why a discriminative projection can outlast noise: two classes in a plane, seen through PCA and through LDA.

Run:    dvc repro projection
Expect: 5 s; the toy of DiGIT (NeurIPS 2024, Fig. 5), which gives no numbers: those of params.yaml are ours.

Points of two overlapping Gaussian classes are projected to one dimension by PCA (the direction of most variance) or
by LDA (the direction that tells the classes apart), and classified there by a threshold half-way between the class
means. Both are fitted on clean points, as a tokenizer is; noise comes to the test points alone. PCA keeps what varies,
which need not be what matters. `bayes` is the best that any classifier of the noisy points in the plane can do; LDA
fitted on points with the same noise would come near it.
Figures are accuracies from 0 to 1, means over seeds, _std between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from stages.core import runtime
from stages.core.params import DIFFERENT, Section, load
from stages.projection.gaussians import bayes_accuracy, draw

if TYPE_CHECKING:
    import numpy as np

CASES, KINDS = ("orthogonal", "oblique"), ("pca", "lda")
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Square = Annotated[list[Pair], Field(min_length=2, max_length=2)]


class Case(Section):
    means: Square
    covariance: Square

    @model_validator(mode="after")
    def classes_overlap(self) -> Case:
        (xx, xy), (yx, yy) = self.covariance
        if xy != yx or xx <= 0 or xx * yy <= xy * yx:
            raise ValueError(f"covariance = {self.covariance}: expected a symmetric positive definite matrix")
        if self.means[0] == self.means[1]:
            raise ValueError(f"means = {self.means}: expected two different points")
        return self


class Params(Section):
    orthogonal: Case
    oblique: Case
    noise_sigmas: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), DIFFERENT]
    train_samples: int = Field(ge=2)
    test_samples: int = Field(gt=0)
    seeds: Annotated[list[int], Field(min_length=2), DIFFERENT]


def level(sigma: float) -> str:
    """The name of a noise level's figures."""
    return f"sigma_{sigma:g}"


def compare(report: Path, params: Params) -> None:
    """Write metrics.json, <case>.tsv and projection.png to the folder `report`."""
    from stages.core.figures import write_figures, write_table
    from stages.projection.show import show

    figures = {name: accuracies(name, params) for name in CASES}
    write_figures(report, {**figures, "protocol": [protocol(name, params) for name in CASES]})
    for name in CASES:
        rows = [(sigma, *(values[level(sigma)] for values in figures[name].values())) for sigma in params.noise_sigmas]
        write_table(report / f"{name}.tsv", ["noise_sigma", *figures[name]], rows)
        ends = {kind: f"{figures[name][kind][level(params.noise_sigmas[0])]:.3f}" for kind in (*KINDS, "bayes")}
        print(f"projection: {name}, sigma {params.noise_sigmas[0]:g}: {ends}")
    show(report / "projection.png", {name: picture(name, figures[name], params) for name in CASES})


def accuracies(name: str, params: Params) -> dict[str, dict[str, float]]:
    """{pca, lda: {level: accuracy, level_std}, bayes: {level: accuracy}} of a case."""
    import numpy as np

    case: Case = getattr(params, name)
    of_seeds = np.stack([scores(name, case, seed, params) for seed in params.seeds])
    means, stds = of_seeds.mean(0), of_seeds.std(0, ddof=1)
    figures: dict[str, dict[str, float]] = {kind: {} for kind in (*KINDS, "bayes")}
    for place, sigma in enumerate(params.noise_sigmas):
        for row, kind in enumerate(KINDS):
            figures[kind] |= {level(sigma): float(means[row, place]), f"{level(sigma)}_std": float(stds[row, place])}
        figures["bayes"][level(sigma)] = bayes_accuracy(case.means, case.covariance, sigma)
    return figures


def scores(name: str, case: Case, seed: int, params: Params) -> np.ndarray:
    """float64 [KINDS, levels]: accuracies of one seed; at every level the same noise but for its size."""
    import numpy as np

    from stages.core.rng import seed_of

    rng = np.random.default_rng(seed_of("projection", name, seed))
    train, train_labels = draw(case.means, case.covariance, params.train_samples, rng)
    test, labels = draw(case.means, case.covariance, params.test_samples, rng)
    noise = rng.standard_normal(test.shape)
    fitted = [fit(kind, train, train_labels) for kind in KINDS]
    return np.array([[one.score(test + sigma * noise, labels) for sigma in params.noise_sigmas] for one in fitted])


def fit(kind: str, points: np.ndarray, labels: np.ndarray) -> Any:
    """A projection to one dimension and, after it, the same classifier whatever the projection."""
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    project = PCA(n_components=1) if kind == "pca" else LinearDiscriminantAnalysis(n_components=1)
    return make_pipeline(project, LinearDiscriminantAnalysis()).fit(points, labels)


def direction(fitted: Any) -> np.ndarray:
    """float64 [2]: the unit vector onto which a fitted pipeline projects, its first part not negative."""
    import numpy as np

    project = fitted[0]
    axis = project.components_[0] if hasattr(project, "components_") else project.scalings_[:, 0]
    return axis / np.linalg.norm(axis) * (1 if axis[0] >= 0 else -1)


def picture(name: str, figures: dict[str, dict[str, float]], params: Params) -> dict[str, Any]:
    """What the plot of a case shows: training points of the first seed, the directions fitted on them, accuracies."""
    import numpy as np

    from stages.core.rng import seed_of

    case: Case = getattr(params, name)
    rng = np.random.default_rng(seed_of("projection", name, params.seeds[0]))
    points, labels = draw(case.means, case.covariance, params.train_samples, rng)
    axes = {kind: direction(fit(kind, points, labels)) for kind in KINDS}
    curves = {kind: [values[level(sigma)] for sigma in params.noise_sigmas] for kind, values in figures.items()}
    return {"points": points, "labels": labels, "axes": axes, "sigmas": params.noise_sigmas, "curves": curves}


def protocol(name: str, params: Params) -> dict[str, Any]:
    """How a case's figures were made."""
    case: Case = getattr(params, name)
    drawn = {"train_samples": params.train_samples, "test_samples": params.test_samples, "point_seeds": params.seeds}
    how = {"noise": "on test points alone", "classifier": "threshold half-way between the projected class means"}
    return {"of": name, **case.model_dump(), **drawn, "noise_sigmas": params.noise_sigmas, **how}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json, tables and the picture")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    compare(args.report, load("projection", Params, args.params))


if __name__ == "__main__":
    runtime.run(main)
