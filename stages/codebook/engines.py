"""k-means of a sample in memory, by one of three engines: faiss, flash-kmeans on a GPU, superkmeans on a CPU.

The last two are optional packages. superkmeans computes most distances in part.
"""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from stages.codebook.initial_vectors import faiss_kmeans, initial_vectors
from stages.codebook.params import Kmeans
from stages.codebook.quantizers import nearest
from stages.core.params import Machine, impossible
from stages.core.results import Curves

PACKAGES = {"flash": ("flash_kmeans", "flash-kmeans"), "superkmeans": ("superkmeans", "superkmeans")}  # module, name


def check_engine(section: str, engine: str, machine: Machine) -> None:
    """`UserError` where an optional engine cannot run, with what to do."""
    missing = []
    if engine == "flash" and (machine.device == "cpu" or not torch.cuda.is_available()):
        missing.append("a GPU (machine.device: auto)")
    if engine in PACKAGES and find_spec(PACKAGES[engine][0]) is None:
        missing.append(f"the package: uv pip install {PACKAGES[engine][1]}")
    if missing:
        raise impossible(f"{section}.engine", engine, f"it needs {' and '.join(missing)}; or use engine: faiss")


def cluster_by_faiss(sample: np.ndarray, params: Kmeans, device: torch.device) -> tuple[Tensor, Curves]:
    """float32 [K, D] centroids; the objective and the number of splits at each iteration of the best redo.

    The objective is the sum of squared distances, as in streaming.py. All of the sample float32 [M, D] is used.
    """
    kmeans, curves = faiss_kmeans(sample, params, device, params.iterations), Curves()
    for iteration, stats in enumerate(kmeans.iteration_stats):
        objective = 2 * (len(sample) - stats["obj"]) if params.normalize else stats["obj"]  # ||f - c||² = 2 - 2 cos
        if len(sample) == params.num_codes:  # faiss copies the vectors and logs 0, also for unit vectors
            objective = 0.0
        curves.log(iteration, objective=float(objective), splits=float(stats["nsplit"]))
    return torch.from_numpy(kmeans.centroids.copy()), curves


def cluster_by_flash(sample: np.ndarray, params: Kmeans, device: torch.device) -> tuple[Tensor, Curves]:
    """The same from flash-kmeans, started from faiss's initial centroids; the last objective alone."""
    start = torch.from_numpy(initial_vectors(sample, params, device)).to(device)
    features = torch.from_numpy(sample).to(device)
    _, found, steps = import_module("flash_kmeans").batch_kmeans_Euclid(
        features[None], params.num_codes, max_iters=params.iterations, tol=0.0, init_centroids=start[None]
    )
    vectors, curves = found[0].float(), Curves()
    errors = [(part - vectors[nearest(part, vectors)]).square().sum().double() for part in features.split(2**16)]
    curves.log(int(steps), objective=float(torch.stack(errors).sum()))
    return vectors.cpu(), curves


def cluster_by_superkmeans(sample: np.ndarray, params: Kmeans, device: torch.device) -> tuple[Tensor, Curves]:
    """The same from superkmeans, from random vectors and without its own sub-sample."""
    engine, curves = import_module("superkmeans").SuperKMeans(
        params.num_codes, sample.shape[1], hierarchical=False, iters=params.iterations, sampling_fraction=1.0,
        max_points_per_cluster=len(sample), n_threads=torch.get_num_threads(), seed=params.seed,
        early_termination=False,
    ), Curves()  # fmt: skip
    vectors = torch.from_numpy(np.array(engine.train(sample), np.float32))
    for iteration, stats in enumerate(engine.iteration_stats):
        curves.log(iteration, objective=float(stats.objective), splits=float(stats.split))
    return vectors, curves


ENGINES = {"faiss": cluster_by_faiss, "flash": cluster_by_flash, "superkmeans": cluster_by_superkmeans}
