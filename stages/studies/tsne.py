"""tsne.png: features and code vectors in one plane, colored by class (van der Maaten & Hinton 2008)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from stages.core.distributed import random_subset
from stages.core.results import save_figure
from stages.studies.code_gallery import most_used
from stages.studies.code_survey import Batch, Survey
from stages.studies.params import CodeAnalysis, Tsne

NO_CLASS, OTHER_CLASS = "#9aa1ab", "white"
NAME_STARTS, NAME_ENDS = 24, 15  # characters of a long name that the legend shows


class FeatureSubset:
    """A seeded subset of the features of val, chosen before the pass and collected while it runs."""

    def __init__(self, labels: np.ndarray, num_patches: int, params: Tsne, seed: int):
        """Choose positions in images of a seeded subset of `params.classes` classes; labels int64 [M]."""
        present = np.unique(labels)
        self.classes: np.ndarray = present[random_subset(len(present), params.classes, seed)]
        images = np.flatnonzero(np.isin(labels, self.classes))
        flat = random_subset(len(images) * num_patches, params.features, seed)
        self.images, self.positions = images[flat // num_patches], flat % num_patches
        self.labels = labels[self.images]
        self.collected: list[np.ndarray] = []
        self.perplexity = params.perplexity

    def collect(self, batch: Batch) -> None:
        """Keep the chosen features of a batch."""
        here = (self.images >= batch.start) & (self.images < batch.start + len(batch.features))
        self.collected.append(batch.features[self.images[here] - batch.start, self.positions[here]])

    def features(self) -> np.ndarray:
        """float32 [F, D]."""
        return np.concatenate(self.collected)

    def obstacle(self) -> str:
        """Why there is no t-SNE of these features; empty if there is one."""
        features = self.features()
        if self.perplexity >= len(features):
            return f"{len(features)} features, more than code_analysis.tsne.perplexity ({self.perplexity:g}) are needed"
        return "all features are equal" if (features == features[0]).all() else ""


def majority_class(codes: np.ndarray, labels: np.ndarray, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [K]: the class in whose images a code occurs most often, of equal ones the lower; float64 [K]: the share of
    its uses that are there. codes [M, N], labels [M]; -1 and 0 for a code without uses."""
    classes, place = np.unique(labels, return_inverse=True)
    flat = codes.astype(np.int64) * len(classes) + place[:, None]
    counts = np.bincount(flat.ravel(), minlength=num_codes * len(classes)).reshape(num_codes, len(classes))
    uses = counts.sum(1)
    return np.where(uses > 0, classes[counts.argmax(1)], -1), counts.max(1) / np.maximum(uses, 1)


@dataclass(frozen=True)
class Layout:
    """Features and the most used codes in one plane: float32 [F, 2], int64 [C] and float32 [C, 2]."""

    feature_plane: np.ndarray
    codes: np.ndarray
    code_plane: np.ndarray


def lay_out(subset: FeatureSubset, train: Survey, vectors_KD: np.ndarray, params: CodeAnalysis) -> Layout:
    """The t-SNE; empty where the features have an obstacle."""
    if subset.obstacle():
        return Layout(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros((0, 2)))
    codes = most_used(np.bincount(train.codes.ravel(), minlength=len(vectors_KD)), params.tsne.codes)
    features = subset.features()
    plane = project(np.concatenate([features, vectors_KD[codes]]), params.tsne, params.seed)
    return Layout(plane[: len(features)], codes, plane[len(features) :])


def save_tsne(
    path: Path, subset: FeatureSubset, layout: Layout, train: Survey, num_codes: int, names: list[str]
) -> None:
    """Features as dots in the color of their image's class; the most used codes as ringed dots in the color of the
    class they occur in most, the larger the greater its share of their uses. Where there is none, its obstacle."""
    if why := subset.obstacle():
        figure = Figure(figsize=(9, 2), dpi=110)
        figure.text(0.5, 0.5, f"no t-SNE: {why}", ha="center")
        save_figure(path, figure)
        return
    majority, share = majority_class(train.codes, train.labels, num_codes)
    figure, axis, colors = scatter(layout.feature_plane, subset, names)
    shades = [colors.get(one, OTHER_CLASS) for one in majority[layout.codes].tolist()]
    ring: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.8}
    axis.scatter(*layout.code_plane.T, s=8 + 110 * share[layout.codes], c=shades, **ring)
    axis.scatter([], [], s=40, c=OTHER_CLASS, label="code", **ring)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
    save_figure(path, figure)


def project(points: np.ndarray, params: Tsne, seed: int) -> np.ndarray:
    """float32 [M, D] -> float32 [M, 2]. Runs on one thread, since sums over several would differ between runs."""
    with threadpool_limits(1):
        tsne = TSNE(perplexity=params.perplexity, max_iter=params.iterations, init="pca", random_state=seed)
        return tsne.fit_transform(points)


def scatter(plane: np.ndarray, subset: FeatureSubset, names: list[str]) -> tuple[Figure, Axes, dict[int, Any]]:
    """A figure with the features in it, and the color of each class shown."""
    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    shades = colormaps["tab10" if len(subset.classes) <= 10 else "tab20"]
    colors = {one: NO_CLASS if one < 0 else shades(place) for place, one in enumerate(subset.classes.tolist())}
    for one, color in colors.items():
        label = literal(names[one]) if one >= 0 else "feature"
        axis.scatter(*plane[subset.labels == one].T, s=16, color=color, alpha=0.7, linewidths=0, label=label)
    return figure, axis, colors


def literal(name: str) -> str:
    """The name of a class as text for matplotlib, which takes $ for formulas and leaves labels that begin with _ out.

    Characters that do not print or that the font lacks are written as Python writes them in ASCII; the middle of a long
    name is left out.
    """
    shown = "".join(char if has_glyph(char) else char.encode("unicode_escape").decode() for char in name)
    if len(shown) > NAME_STARTS + NAME_ENDS + 1:
        shown = f"{shown[:NAME_STARTS]}…{shown[-NAME_ENDS:]}"
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


@cache
def has_glyph(char: str) -> bool:
    """True if matplotlib's font shows the character."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return char.isprintable() and font.get_char_index(ord(char)) > 0
