"""Scores of generated samples, each a mean over seeds with the standard deviation between them, and of real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import artefact, likeness
from stages.core.errors import UserError
from stages.evaluate import metrics
from stages.evaluate.paint import paint
from stages.evaluate.reconstruction import neighbour_figures
from stages.reference.sight import Sight

if TYPE_CHECKING:
    import numpy as np

    from stages.evaluate.bench import Bench


@dataclass(frozen=True)
class Samples:
    """codes [seeds, num, N], labels int64 [num] (the class asked for, -1 none) and the artefact's config."""

    codes: np.ndarray
    labels: np.ndarray
    config: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """Under which each of them was drawn, and is painted."""
        return self.config["seeds"]


def load_samples(folder: Path) -> Samples:
    """The samples artefact in `folder`."""
    import numpy as np

    config = artefact.read_config(folder, "samples")
    codes, labels = (np.load(artefact.checked(folder, name)) for name in ("codes.npy", "labels.npy"))
    if codes.ndim != 3 or len(labels) != codes.shape[1]:
        shapes = f"codes {list(codes.shape)} do not fit labels {list(labels.shape)}"
        raise UserError(f"{folder}: {shapes}. Run `dvc repro samples`.")
    return Samples(codes, labels, config)


def score_samples(
    samples: Samples, num_codes: int, decoder: Any, bench: Bench, val_distances: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The figures of one generator."""
    import numpy as np

    from stages.core.usage import usage

    seeds: list[dict[str, float]] = []
    neighbours: list[dict[str, Any]] = []
    for seed, codes in zip(samples.seeds, samples.codes, strict=True):
        sight = bench.see(
            len(codes), lambda batch, codes=codes, seed=seed: paint(decoder, codes[batch.start : batch.stop], seed)
        )
        neighbours.append(neighbour_figures(sight, val_distances, bench))
        near = {f"near_copies[{name}]": found["near_copies"] for name, found in neighbours[-1].items()}
        seeds.append({**seed_figures(sight, samples.labels, bench), **near})
    counts = np.bincount(samples.codes.ravel(), minlength=num_codes)
    return {
        **over_seeds(seeds),
        **skipped(samples.labels, bench),
        "likelihood": samples.config["generator"]["likelihood"],
        "code_usage": usage(counts),
        "neighbours": neighbours[0],
    }


def score_real(real: Sight, labels: np.ndarray, bench: Bench) -> dict[str, Any]:
    """What so many perfect samples would have: the scores of these real val images; one set, no spread."""
    least = max(bench.params.kid_subset_size, bench.reference.config["prc_neighbours"] + 1, metrics.IS_SPLITS)
    if len(real) < least:
        return {"as_samples_skipped": f"{len(real)} val images: {least} are needed (evaluate.kid_subset_size)"}
    return {"as_samples": {"images": len(real), **seed_figures(real, labels, bench)}}


def seed_figures(sight: Sight, labels: np.ndarray, bench: Bench) -> dict[str, float]:
    """The scores of one seed's samples against real training images."""
    params, real, figures = bench.params, bench.reference, {}
    if bench.judges(labels):
        figures["agreement"] = float(sight.hits(labels).mean())
    for space, feats in sight.features.items():
        reference, neighbours = real.sight.features[space], real.config["prc_neighbours"]
        precision, recall = metrics.precision_recall(feats, reference, real.radii[space], neighbours)
        figures |= {f"gfid[{space}]": likeness.fid(feats, reference)}
        figures |= {f"gkid[{space}]": metrics.kid(feats, reference, params.kid_subset_size, params.seed)}
        if space in sight.logits:
            figures |= {f"is[{space}]": metrics.inception_score(sight.logits[space], params.seed)}
        figures |= {f"precision[{space}]": precision, f"recall[{space}]": recall}
    return figures


def over_seeds(seeds: list[dict[str, float]]) -> dict[str, float]:
    """name: mean, name_std: standard deviation; the latter from two seeds on."""
    import numpy as np

    figures = {}
    for name in seeds[0]:
        values = [scores[name] for scores in seeds]
        figures[name] = float(np.mean(values))
        if len(values) > 1:
            figures[f"{name}_std"] = float(np.std(values, ddof=1))
    return figures


def skipped(labels: np.ndarray, bench: Bench) -> dict[str, str]:
    """Which figures are missing and why."""
    if "judge" not in bench.spaces:
        return {"agreement_skipped": "no classes", "is_skipped": "no classes for a judge to know"}
    return {"agreement_skipped": "drawn without a class"} if (labels < 0).any() else {}
