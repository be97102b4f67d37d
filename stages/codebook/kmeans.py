"""Patch features -> code vectors by faiss.Kmeans.

Run:    dvc repro codebook
Expect: digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors: 10 minutes on 16 cores.

It says how many of how many vectors it used: faiss itself never sub-samples here. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.core import artefact, runtime, shards
from stages.core.artefact import read_config
from stages.core.figures import write_figures
from stages.core.params import Machine, Section, impossible, load
from stages.core.plan import print_plan

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Codebook


class Params(Section):
    num_codes: int = Field(gt=0, le=2**32)
    max_vectors: int = Field(ge=0)
    iterations: int = Field(gt=0)
    init: Literal["random", "kmeans++", "afk-mc2"]
    redo: int = Field(gt=0)
    normalise: bool
    seed: int = Field(ge=0, lt=2**31)


def fit_codebook(features: Path, encoder: Path, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` and its usage figures to `report` (a folder)."""
    from safetensors.torch import save_file

    from stages.codebook.model import Codebook
    from stages.core.codes import code_dtype

    config, total, used = check(features, params)
    print_plan(
        "codebook", out, {"vectors used": used, "vectors in all": total},
        disk_bytes=params.num_codes * config["dim"] * 4, memory_bytes=400 * 2**20 + used * config["dim"] * 8,
    )  # fmt: skip
    sample = sample_vectors(features, total, used, config["dim"], params)
    vectors, progress = run_kmeans(sample, params, machine)
    print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {progress[-1]['objective']:.6g}")
    codebook = Codebook(vectors, params.normalise)
    usage_by_split = {split: count_usage(features, split, codebook) for split in ("train", "val")}
    facts = {
        "num_codes": params.num_codes, "dim": config["dim"], "dtype": code_dtype(params.num_codes),
        "normalise": params.normalise,
        "block": config["block"], "final_norm": config["final_norm"], "num_patches": config["num_patches"],
        "encoder": os.path.relpath(encoder, out),
        "inputs": {"features": artefact.digest(features), "encoder": artefact.digest(encoder)},
        "vectors_used": used, "vectors_total": total,
    }  # fmt: skip
    with artefact.new_artefact(out, "codebook", facts) as folder:
        save_file({"vectors": vectors}, folder / "codes.safetensors")
    write_report(report, {"vectors_used": used, "vectors_total": total, **usage_by_split}, progress)


def check(features: Path, params: Params) -> tuple[dict[str, Any], int, int]:
    """The features' config, how many train vectors there are and how many will be used; too few is an error."""
    config = read_config(features, "features")
    total = config["splits"]["train"]["images"] * config["num_patches"]
    used = min(total, params.max_vectors or total)
    if params.num_codes > used:
        raise impossible("codebook.num_codes", params.num_codes, f"expected at most the {used:,} vectors to cluster")
    return config, total, used


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


def run_kmeans(sample: np.ndarray, params: Params, machine: Machine) -> tuple[Any, list[dict[str, float]]]:
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
    progress = [{"objective": float(it["obj"]), "splits": int(it["nsplit"])} for it in kmeans.iteration_stats]
    return torch.from_numpy(kmeans.centroids.copy()), progress


def count_usage(features: Path, split: str, codebook: Codebook) -> dict[str, float]:
    """Usage figures of a split's stored features."""
    import numpy as np
    import torch

    from stages.codebook.usage import usage

    counts = np.zeros(len(codebook.vectors), np.int64)
    for batch in stacked(shards.read_arrays(features, "features", split), 64):
        counts += np.bincount(codebook.assign(torch.from_numpy(batch)).flatten().numpy(), minlength=len(counts))
    return usage(counts)


def stacked(arrays: Iterator[tuple[str, np.ndarray]], count: int) -> Iterator[np.ndarray]:
    """[up to `count`, N, D] batches of consecutive arrays."""
    import itertools

    import numpy as np

    while batch := [array for _, array in itertools.islice(arrays, count)]:
        yield np.stack(batch)


def write_report(report: Path, figures: dict[str, Any], progress: list[dict[str, float]]) -> None:
    """metrics.json and kmeans.tsv (iteration, objective, splits)."""
    write_figures(report, figures)
    rows = [f"{i}\t{it['objective']}\t{it['splits']}" for i, it in enumerate(progress)]
    (report / "kmeans.tsv").write_text("\n".join(["step\tobjective\tsplits", *rows]) + "\n")
    for split in ("train", "val"):
        print(f"codebook: {split}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures[split].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="features artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact the features came from")
    parser.add_argument("--out", type=Path, required=True, help="codebook artefact to write")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json and kmeans.tsv")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("codebook", Params, args.params), load("machine", Machine, args.params)
    check(args.features, params)
    fit_codebook(args.features, args.encoder, args.out, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
