"""tsne.png: continuous rows and code vectors in one plane, coloured by class (van der Maaten & Hinton 2008)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.core.params import Section, impossible
from stages.core.pictures import save_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stages.anatomy.survey import Batch, Survey

NO_CLASS, UNSHOWN = "#9aa1ab", "white"


class Tsne(Section):
    rows: int = Field(gt=1)
    codes: int = Field(ge=0)
    classes: int = Field(gt=0, le=20)
    perplexity: float = Field(gt=1)
    iterations: int = Field(ge=250)


class Picks:
    """Some rows of val, chosen before the pass and collected while it runs."""

    def __init__(self, labels: np.ndarray, num_patches: int, params: Tsne, seed: int):
        """Positions of images whose class is among a seeded choice of `params.classes`; labels int64 [M]."""
        import numpy as np

        from stages.core.choice import choose

        present = np.unique(labels)
        self.classes: np.ndarray = present[choose(len(present), params.classes, seed)]
        images = np.flatnonzero(np.isin(labels, self.classes))
        flat = choose(len(images) * num_patches, params.rows, seed)
        self.images, self.positions = images[flat // num_patches], flat % num_patches
        self.labels = labels[self.images]
        self.found: list[np.ndarray] = []
        if params.perplexity >= len(flat):
            raise impossible("anatomy.tsne.perplexity", params.perplexity, f"expected less than the {len(flat)} rows")

    def collect(self, batch: Batch) -> None:
        """Keep the chosen rows of a batch."""
        here = (self.images >= batch.start) & (self.images < batch.start + len(batch.rows))
        self.found.append(batch.rows[self.images[here] - batch.start, self.positions[here]])

    def rows(self) -> np.ndarray:
        """float32 [R, D]."""
        import numpy as np

        return np.concatenate(self.found)


def majority_class(codes: np.ndarray, labels: np.ndarray, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [K]: the class in whose images a code occurs most often, of equal ones the lower; float64 [K]: the share of
    its uses that are there. codes [M, N], labels [M]; -1 and 0 for a code without uses."""
    import numpy as np

    classes, place = np.unique(labels, return_inverse=True)
    flat = codes.astype(np.int64) * len(classes) + place[:, None]
    counts = np.bincount(flat.ravel(), minlength=num_codes * len(classes)).reshape(num_codes, len(classes))
    uses = counts.sum(1)
    return np.where(uses > 0, classes[counts.argmax(1)], -1), counts.max(1) / np.maximum(uses, 1)


def draw_tsne(
    path: Path, picks: Picks, seen: Survey, vectors_KD: np.ndarray, names: list[str], params: Tsne, seed: int
) -> None:
    """Rows as dots in the colour of their image's class; the most used codes as ringed dots in the colour of the class
    they occur in most, the larger the greater its share of their uses."""
    import numpy as np

    from stages.anatomy.gallery import most_used

    codes = most_used(np.bincount(seen.codes.ravel(), minlength=len(vectors_KD)), params.codes)
    majority, share = majority_class(seen.codes, seen.labels, len(vectors_KD))
    rows = picks.rows()
    plane = project(np.concatenate([rows, vectors_KD[codes]]), params, seed)
    figure, axis, palette = scatter(plane[: len(rows)], picks, names)
    shades = [palette.get(one, UNSHOWN) for one in majority[codes].tolist()]
    ring: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.8}
    axis.scatter(*plane[len(rows) :].T, s=8 + 110 * share[codes], c=shades, **ring)
    axis.scatter([], [], s=40, c=UNSHOWN, label="code", **ring)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
    save_figure(path, figure)


def project(points: np.ndarray, params: Tsne, seed: int) -> np.ndarray:
    """float32 [M, D] -> float32 [M, 2]. On one thread: sums over more would differ from run to run."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        tsne = TSNE(perplexity=params.perplexity, max_iter=params.iterations, init="pca", random_state=seed)
        return tsne.fit_transform(points)


def scatter(plane: np.ndarray, picks: Picks, names: list[str]) -> tuple[Figure, Axes, dict[int, Any]]:
    """A figure with the rows in it, and the colour of each class shown."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    colours = colormaps["tab10" if len(picks.classes) <= 10 else "tab20"]
    palette = {one: NO_CLASS if one < 0 else colours(place) for place, one in enumerate(picks.classes.tolist())}
    for one, colour in palette.items():
        label = names[one] if one >= 0 else "row"
        axis.scatter(*plane[picks.labels == one].T, s=16, color=colour, alpha=0.7, linewidths=0, label=label)
    return figure, axis, palette
