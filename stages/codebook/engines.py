"""k-means of vectors in memory: faiss on a CPU or GPU, flash-kmeans (arXiv 2603.09229) on a GPU.

faiss takes all GPUs that it sees, whichever `device` says; CUDA_VISIBLE_DEVICES hides the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.core.curves import Curves
from stages.core.params import Machine, impossible

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from stages.codebook.kmeans import Params

INIT = {"random": "RANDOM", "kmeans++": "KMEANS_PLUS_PLUS", "afk-mc2": "AFK_MC2"}


def faiss_kmeans(sample: np.ndarray, params: Params, device: torch.device) -> tuple[Tensor, Curves]:
    """float32 [K, D] centroids and, for each iteration of the best redo, the objective and the number of splits.

    The objective is the sum of squared distances, as in lloyd.py. All of the sample is used.
    """
    import torch

    kmeans = build(sample, params, device, params.iterations)
    kmeans.train(sample)
    progress = Curves()
    best = kmeans.iteration_stats[-params.iterations :]  # faiss keeps those of earlier redos before them
    for iteration, it in enumerate(best):
        objective = 2 * (len(sample) - it["obj"]) if params.normalise else it["obj"]  # ||f - c||² = 2 - 2 cos
        if len(sample) == params.num_codes:  # faiss copies them, and logs 0 of either kind
            objective = 0.0
        progress.log(iteration, objective=float(objective), splits=float(it["nsplit"]))
    return torch.from_numpy(kmeans.centroids.copy()), progress


def initial(sample: np.ndarray, params: Params, device: torch.device, iterations: int = 0) -> np.ndarray:
    """float32 [K, D]: the centroids that faiss would start from, or has after some iterations."""
    kmeans = build(sample, params, device, iterations)
    kmeans.train(sample)
    return kmeans.centroids.copy()


def build(sample: np.ndarray, params: Params, device: torch.device, iterations: int) -> Any:
    """faiss.Kmeans without its silent sub-sample of 256 points a centroid."""
    import faiss

    return faiss.Kmeans(
        sample.shape[1], params.num_codes, niter=iterations, nredo=params.redo, seed=params.seed,
        spherical=params.normalise, gpu=device.type == "cuda" and faiss.get_num_gpus() > 0,
        init_method=getattr(faiss, f"ClusteringInitMethod_{INIT[params.init]}"),
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip


def flash_kmeans(sample: np.ndarray, params: Params, device: torch.device) -> tuple[Tensor, Curves]:
    """The same from flash-kmeans, started from faiss's initial centroids; the last objective alone."""
    import torch
    from flash_kmeans import batch_kmeans_Euclid  # ty: ignore[import-not-found]

    from stages.codebook.quantise import nearest

    start = torch.from_numpy(initial(sample, params, device)).to(device)
    rows = torch.from_numpy(sample).to(device)
    _, found, steps = batch_kmeans_Euclid(
        rows[None], params.num_codes, max_iters=params.iterations, tol=0.0, init_centroids=start[None]
    )
    vectors, progress = found[0].float(), Curves()
    errors = [(part - vectors[nearest(part, vectors)]).square().sum().double() for part in rows.split(2**16)]
    progress.log(int(steps), objective=float(torch.stack(errors).sum()))
    return vectors.cpu(), progress


ENGINES = {"faiss": faiss_kmeans, "flash": flash_kmeans}


def check_flash(section: str, machine: Machine) -> None:
    """`UserError` where flash-kmeans cannot run, with what to do."""
    from importlib.util import find_spec

    import torch

    missing = []
    if machine.device == "cpu" or not torch.cuda.is_available():
        missing.append("a GPU (machine.device: auto)")
    if find_spec("flash_kmeans") is None:
        missing.append("the package: uv pip install flash-kmeans")
    if missing:
        raise impossible(f"{section}.engine", "flash", f"it needs {' and '.join(missing)}; or use engine: faiss")
