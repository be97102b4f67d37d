"""kmeans: patch features of a frozen encoder -> code vectors by faiss.Kmeans (DiGIT, 1.1).

Digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors: 10 minutes on 16 cores.
It says how many of how many vectors it used: faiss itself never sub-samples here. A GPU is used where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.codebook.fitted import count_usage, publish
from stages.codebook.sources import Sources
from stages.codebook.usage import write_usage
from stages.core import shards
from stages.core.artefact import read_config
from stages.core.curves import Curves
from stages.core.params import Machine, Section, impossible
from stages.core.plan import print_plan

if TYPE_CHECKING:
    import numpy as np


class Params(Section):
    kind: Literal["kmeans"]
    num_codes: int = Field(gt=0, le=2**32)
    max_vectors: int = Field(ge=0)
    iterations: int = Field(gt=0)
    init: Literal["random", "kmeans++", "afk-mc2"]
    redo: int = Field(gt=0)
    normalise: bool
    seed: int = Field(ge=0, lt=2**31)


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` and its usage figures to `report` (a folder)."""
    from stages.codebook.quantise import Codebook

    config, (total, used) = read_config(sources.features, "features"), count_vectors(sources.features, params)
    print_plan(
        "codebook", out, {"vectors used": used, "vectors in all": total},
        disk_bytes=params.num_codes * config["dim"] * 4, memory_bytes=400 * 2**20 + used * config["dim"] * 8,
    )  # fmt: skip
    sample = sample_vectors(sources.features, total, used, config["dim"], params)
    vectors, progress = run_kmeans(sample, params, machine)
    objective = progress.last()["objective"]
    print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {objective:.6g}")
    codebook = Codebook(vectors, params.normalise)
    usage_by_split = {split: count_usage(sources.features, split, codebook) for split in ("train", "val")}
    publish(out, sources, codebook, params.kind, vectors_used=used, vectors_total=total)
    progress.write(report)
    write_usage(report, usage_by_split, vectors_used=used, vectors_total=total)


def check(section: str, sources: Sources, params: Params) -> None:
    """Too few vectors to cluster are an error."""
    _, used = count_vectors(sources.features, params)
    if params.num_codes > used:
        allowed = f"expected at most the {used:,} vectors to cluster"
        raise impossible(f"{section}.num_codes", params.num_codes, allowed)


def count_vectors(features: Path, params: Params) -> tuple[int, int]:
    """How many train vectors there are and how many will be used."""
    config = read_config(features, "features")
    total = config["splits"]["train"]["images"] * config["num_patches"]
    return total, min(total, params.max_vectors or total)


def sample_vectors(features: Path, total: int, used: int, dim: int, params: Params) -> np.ndarray:
    """float32 [used, dim]: a seeded choice without repetition of the train vectors, in order; normalised if asked."""
    import numpy as np

    sample = np.empty((used, dim), np.float32)
    chosen = (
        np.arange(total)
        if used == total
        else np.sort(np.random.default_rng(params.seed).choice(total, used, replace=False))
    )
    filled = seen = 0
    for _, feat_ND in shards.read_arrays(features, "features", "train"):
        rows = chosen[filled : np.searchsorted(chosen, seen + len(feat_ND))] - seen
        sample[filled : filled + len(rows)] = feat_ND[rows]
        filled, seen = filled + len(rows), seen + len(feat_ND)
    if params.normalise:
        sample /= np.maximum(np.linalg.norm(sample, axis=1, keepdims=True), 1e-12)
    return sample


def run_kmeans(sample: np.ndarray, params: Params, machine: Machine) -> tuple[Any, Curves]:
    """float32 [K, D] centroids and, for each iteration of the best redo, the objective and the number of splits."""
    import faiss
    import torch

    init = {"random": "RANDOM", "kmeans++": "KMEANS_PLUS_PLUS", "afk-mc2": "AFK_MC2"}[params.init]
    use_gpu = machine.device != "cpu" and faiss.get_num_gpus() > 0
    kmeans: Any = faiss.Kmeans(
        sample.shape[1], params.num_codes, niter=params.iterations, nredo=params.redo, seed=params.seed,
        spherical=params.normalise, gpu=use_gpu, init_method=getattr(faiss, f"ClusteringInitMethod_{init}"),
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip
    kmeans.train(sample)
    progress = Curves()
    for iteration, it in enumerate(kmeans.iteration_stats):
        progress.log(iteration, objective=float(it["obj"]), splits=float(it["nsplit"]))
    return torch.from_numpy(kmeans.centroids.copy()), progress
