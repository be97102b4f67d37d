"""The pictures beside the figures: reconstructions, samples by class, nearest training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.choice import evenly
from stages.core.pictures import enlarge, grid, save_png
from stages.evaluate.neighbours import nearest
from stages.evaluate.paint import paint

if TYPE_CHECKING:
    import numpy as np

    from stages.data.reader import ImageSplit
    from stages.evaluate.bench import Bench
    from stages.evaluate.generation import Samples

PAIRS, PAIR_COLUMNS = 32, 16
CLASS_ROWS, CLASS_COLUMNS = 20, 10


def show_reconstructions(path: Path, val: ImageSplit, tokenizer: Any, decoder: Any, seed: int) -> None:
    """Rows of originals, each above the row of their reconstructions."""
    import numpy as np

    images = val.read(evenly(len(val), PAIRS))
    decoded = paint(decoder, tokenizer.encode(images), seed)
    rows = [
        pictures[start : start + PAIR_COLUMNS]
        for start in range(0, len(images), PAIR_COLUMNS)
        for pictures in (images, decoded)
    ]
    save_png(path, grid(np.concatenate(rows), min(PAIR_COLUMNS, len(images)), enlarge(val.img_px)))


def show_samples(path: Path, samples: Samples, decoder: Any) -> None:
    """The first samples of the first seed: one row a class, at most 20 classes; without classes, as they come."""
    import numpy as np

    classes = np.unique(samples.labels)
    shown = classes[evenly(len(classes), CLASS_ROWS)]
    rows = [np.flatnonzero(samples.labels == one)[:CLASS_COLUMNS] for one in shown]
    if len(classes) == 1:
        rows = [np.arange(len(samples.labels))[: CLASS_COLUMNS * CLASS_COLUMNS]]
    columns = min(CLASS_COLUMNS, max(map(len, rows)))
    chosen = np.concatenate([padded(row, columns) for row in rows])
    images = paint(decoder, samples.codes[0][chosen], samples.seeds[0])
    save_png(path, grid(images, columns, enlarge(images.shape[1])))


def padded(row: np.ndarray, columns: int) -> np.ndarray:
    """The row filled up by its own beginning to a multiple of `columns`."""
    import numpy as np

    return np.resize(row, -(-len(row) // columns) * columns)


def show_neighbours(path: Path, samples: Samples, decoder: Any, bench: Bench) -> None:
    """Three rows: samples of the first seed, the nearest training images in pixels, and in the encoder's features."""
    import numpy as np

    chosen = evenly(len(samples.labels), bench.params.neighbours_shown)
    images = paint(decoder, samples.codes[0][chosen], samples.seeds[0])
    reference, rows = bench.coordinates(bench.reference.sight), [images]
    for name, points in bench.coordinates(bench.look(images)).items():
        places = nearest(points, reference[name])[1]
        rows.append(bench.train.read(bench.reference.index[places]))
    save_png(path, grid(np.concatenate(rows), len(images), enlarge(bench.train.img_px)))
