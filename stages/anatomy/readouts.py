"""What can be read linearly from codes: an image's class, a patch's colour.

Each is asked of three descriptions: which codes there are (`bag`, how often each occurs in an image; `one_hot`, which
one a patch has), `vectors` (the codes' vectors) and `rows` (the continuous rows before quantisation, placed among the
vectors: the most that these could have kept).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.core.patches import PatchTable
from stages.core.readout import LinearMap, class_hits, told_apart
from stages.core.scores import bootstrap_std, mean_and_std

if TYPE_CHECKING:
    import numpy as np

    from stages.anatomy.survey import Batch, Survey


class ColourReader:
    """A patch's mean red, green and blue: learnt on train batches, tested on val batches."""

    def __init__(self, vectors_KD: np.ndarray):
        self.vectors = vectors_KD
        dim = vectors_KD.shape[1]
        self.maps = {"vectors": LinearMap(dim, 3), "rows": LinearMap(dim, 3)}
        self.solved: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.errors: dict[str, list[np.ndarray]] = {"one_hot": [], "vectors": [], "rows": []}
        self.colours: list[np.ndarray] = []

    def learn(self, batch: Batch) -> None:
        """Add a batch to the regressions' sums."""
        colours = batch.colours.reshape(-1, 3)
        self.maps["vectors"].add(self.vectors[batch.codes.ravel()], colours)
        self.maps["rows"].add(batch.rows.reshape(-1, batch.rows.shape[-1]), colours)

    def solve(self, ridge: float, table: PatchTable) -> None:
        """Fix the regressions; the colour of a code alone is that of its mean patch."""
        self.solved = {name: one.solve(ridge) for name, one in self.maps.items()}
        self.of_code = table.means().mean((1, 2)) / 255

    def test(self, batch: Batch) -> None:
        """Note the squared errors of a batch, an image each."""
        colours = batch.colours
        inputs = {"vectors": self.vectors[batch.codes], "rows": batch.rows}
        read = {"one_hot": self.of_code[batch.codes]}
        read |= {name: inputs[name] @ weights + bias for name, (weights, bias) in self.solved.items()}
        for name, found in read.items():
            self.errors[name].append(((found - colours) ** 2).sum((1, 2)))
        self.colours.append(colours)

    def figures(self, draws: int, seed: int) -> dict[str, float | str]:
        """R² over all positions and the three colours together: 1 - squared error / deviation from val's mean colour.

        _std by bootstrap over images. Where all of val has one colour, there is nothing to read.
        """
        import numpy as np

        colours = np.concatenate(self.colours)
        deviation = ((colours - colours.mean((0, 1))) ** 2).sum((1, 2))
        if deviation.sum() < 1e-12 * colours.size:
            return {"skipped": "all patches have one colour"}
        found: dict[str, float | str] = {}
        for name, batches in self.errors.items():
            error = np.concatenate(batches)
            std = bootstrap_std(lambda i, e=error: share_explained(e[i], deviation[i]), len(error), draws, seed)
            found |= {name: share_explained(error, deviation), f"{name}_std": std}
        return found


def share_explained(error: np.ndarray, deviation: np.ndarray) -> float:
    """R² from squared errors and squared deviations, an image each; 0 where a resampling has no deviation."""
    total = float(deviation.sum())
    return 1 - float(error.sum()) / total if total else 0.0


def class_figures(
    train: Survey, val: Survey, vectors_KD: np.ndarray, strength: float, draws: int, seed: int
) -> dict[str, float | str]:
    """Accuracy on val of logistic regressions on an image's bag of codes, mean code vector and mean row."""
    from stages.core.usage import bags

    if not told_apart(train.labels, val.labels):
        return {"skipped": "no classes"}
    counted = [bags(one.codes, len(vectors_KD)) for one in (train, val)]
    described = {
        "bag": counted,
        "vectors": [bag @ vectors_KD for bag in counted],
        "rows": [train.mean_rows, val.mean_rows],
    }
    found: dict[str, float | str] = {}
    for name, (known, asked) in described.items():
        found |= mean_and_std(name, class_hits(known, train.labels, asked, val.labels, strength), draws, seed)
    return found
