"""Scores of val images after tokenizer and decoder, beside those of the val images themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.core import likeness, scores
from stages.evaluate.neighbours import distance_figures, nearest
from stages.evaluate.paint import paint
from stages.reference.sight import Sight, batches, join

if TYPE_CHECKING:
    import numpy as np

    from stages.data.reader import ImageSplit
    from stages.evaluate.bench import Bench


def score_reconstruction(
    val: ImageSplit, tokenizer: Any, decoder: Any, bench: Bench
) -> tuple[dict[str, Any], dict[str, np.ndarray], Sight]:
    """Figures of the groups `val` and `reconstruction`; val's distances to train (float64 [M] by name); real val."""
    import numpy as np

    originals, copies, signal, all_codes = [], [], [], []
    for batch in batches(len(val), bench.batch_size):
        images = val.read(batch)
        codes = tokenizer.encode(images)
        decoded = paint(decoder, codes, bench.params.seed)
        all_codes.append(codes)
        signal.append(np.stack([scores.psnr(images, decoded), likeness.ssim(images, decoded)]))
        originals.append(bench.look(images))
        copies.append(bench.look(decoded))
    real, made = join(originals), join(copies)
    own = {"psnr_db": np.concatenate(signal, 1)[0], "ssim": np.concatenate(signal, 1)[1]}
    distances = to_train(real, bench)
    figures = {
        "val": {
            **agreement(real, val.labels, bench),
            "neighbours": {name: distance_figures(found, found) for name, found in distances.items()},
        },
        "reconstruction": {
            **agreement(made, val.labels, bench),
            **{key: value for name, values in own.items() for key, value in mean_and_std(name, values, bench).items()},
            **distances_to_originals(made, real, bench),
            "code_usage": code_usage(np.concatenate(all_codes), tokenizer.num_codes, bench),
            "neighbours": neighbour_figures(made, distances, bench),
        },
    }
    return figures, distances, real


def mean_and_std(name: str, values: np.ndarray, bench: Bench) -> dict[str, float]:
    """Mean of one value an image, and the bootstrap standard deviation of that mean."""
    return scores.mean_and_std(name, values, bench.params.bootstrap_draws, bench.params.seed)


def code_usage(codes: np.ndarray, num_codes: int, bench: Bench) -> dict[str, float]:
    """Usage by codes [M, N] of M images, and the entropy's bootstrap standard deviation over images."""
    import numpy as np

    from stages.core.usage import usage

    def used(index: np.ndarray) -> dict[str, float]:
        return usage(np.bincount(codes[index].ravel(), minlength=num_codes))

    draws, seed = bench.params.bootstrap_draws, bench.params.seed
    std = scores.bootstrap_std(lambda index: used(index)["entropy_nats"], len(codes), draws, seed)
    return {**used(np.arange(len(codes))), "entropy_nats_std": std}


def agreement(sight: Sight, labels: np.ndarray, bench: Bench) -> dict[str, Any]:
    """Share of images in which the judge sees their class, or why there is none."""
    if not bench.judges(labels):
        return {"agreement_skipped": "no classes"}
    return mean_and_std("agreement", sight.hits(labels), bench)


def distances_to_originals(made: Sight, real: Sight, bench: Bench) -> dict[str, float]:
    """rFID in each space: the reference is the same crops before tokenisation.

    No rKID: its estimator is unbiased for independent sets alone, and these are pairs.
    """
    params, figures = bench.params, {}
    for space, feats in made.features.items():
        originals = real.features[space]
        std = scores.bootstrap_std(
            lambda index, a=feats, b=originals: likeness.fid(a[index], b[index]),
            len(feats),
            params.bootstrap_draws,
            params.seed,
        )
        figures |= {f"rfid[{space}]": likeness.fid(feats, originals), f"rfid[{space}]_std": std}
    return figures


def neighbour_figures(sight: Sight, val_distances: dict[str, np.ndarray], bench: Bench) -> dict[str, Any]:
    """Distances to the nearest training image that is compared with, in pixels and in features."""
    found = to_train(sight, bench)
    return {name: distance_figures(distances, val_distances[name]) for name, distances in found.items()}


def to_train(sight: Sight, bench: Bench) -> dict[str, np.ndarray]:
    """float64 [M] by name: distances to the nearest training image that is compared with (reference.max_images)."""
    reference = bench.coordinates(bench.reference.sight)
    return {name: nearest(rows, reference[name])[0] for name, rows in bench.coordinates(sight).items()}
