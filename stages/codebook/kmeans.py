"""kmeans: k-means of a frozen encoder's patch features -> code vectors (DiGIT, NeurIPS 2024).

Digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors, 20 iterations:
an estimated 45 minutes on 16 cores or one on a GPU, from docs/benchmarks.md, which times vectors half as wide. The
command prints how many vectors it used; faiss's own sub-sampling is off. A GPU is used where there is one.

Features come from the features artifact, from other blocks, or from the encoder's untrained twin. The twin is the
control that shows what training the encoder is worth. They may be projected (kmeans_features.py), and are clustered in
memory, here, or streamed (streaming.py).
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.codebook.dead_codes import count_usage, write_usage
from stages.codebook.encoder_features import ENCODER, PROJECTION, EncoderFeatures
from stages.codebook.kmeans_features import (
    SPLITS,
    Features,
    Layout,
    computed_features,
    fit_feature_map,
    layout_of,
    stored_features,
)
from stages.codebook.params import Inputs, Kmeans
from stages.codebook.quantizers import Codebook, nearest
from stages.codebook.streaming import faiss_kmeans, initial_vectors, stream
from stages.codebook.tokenizer import new_codebook
from stages.core import artifact
from stages.core.distributed import seed_of
from stages.core.hardware import pick_device
from stages.core.networks import save_tensors
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.scratch import scratch
from stages.encoder.encoder import Encoder, load_encoder, random_twin

REMEDY = "lower num_codes, or cluster more different vectors (max_vectors: 0, more images)"  # for dead codes
FLASH = "flash_kmeans"  # an optional package (arXiv 2603.09229)


def check(inputs: Inputs, params: Kmeans) -> None:
    """`UserError` for too few vectors to cluster, and for blocks and components that do not exist."""
    layout = layout_of(inputs, params)
    used = vectors_used(layout, params)
    at_once = min(used, params.chunk_vectors) if params.method != "sample" else used
    if params.num_codes > at_once:
        what = "vectors to cluster" if at_once == used else f"vectors of {inputs.section}.chunk_vectors, to start from"
        raise impossible(f"{inputs.section}.num_codes", params.num_codes, f"expected at most the {at_once:,} {what}")
    if params.pca_dim > layout.dim:
        allowed = f"expected at most the {layout.dim} values of a vector"
        raise impossible(f"{inputs.section}.pca_dim", params.pca_dim, allowed)


def vectors_used(layout: Layout, params: Kmeans) -> int:
    """How many of a codebook's train features it is fitted on."""
    return min(layout.train_vectors, params.max_vectors or layout.train_vectors)


def fit(inputs: Inputs, params: Kmeans, machine: Machine) -> None:
    """Write the codebook artifact, its curves and usage metrics."""
    layout = layout_of(inputs, params)
    if params.engine == "flash":
        check_flash(inputs.section, machine)
    total, used = layout.train_vectors, vectors_used(layout, params)
    estimate(inputs.out, layout, used, params)
    with scratch(inputs.out, params, [inputs.images, inputs.encoder, inputs.features]) as work:
        device = pick_device(machine.device)
        twin = make_twin(inputs, params.seed, device) if params.encoder == "random" else None
        features = open_features(inputs, layout, twin, params, machine, work, device)
        features.feature_map = fit_feature_map(features, params)
        fitted = [cluster(features, number, used, params, work, device) for number in range(layout.codebooks)]
        codebook = Codebook(torch.cat([vectors for vectors, _ in fitted]), params.normalize).to(device)
        curves = join([curves for _, curves in fitted])
        objective = sum(value for name, value in curves.last().items() if name.endswith("objective"))
        print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {objective:.6g}")
        usage = {
            split: count_usage(codes_of(features, split, codebook, params.chunk_vectors), len(codebook.vectors))
            for split in SPLITS
        }
        counts = {"vectors_used": used, "vectors_total": total}
        write_usage(inputs, curves, len(codebook.vectors), usage, REMEDY, objective=objective, **counts)
        publish(inputs, params, features, codebook, twin, counts)


def estimate(out: Path, layout: Layout, used: int, params: Kmeans) -> None:
    """Print what is in memory at once, and computed features on disk."""
    held = used * 2 if params.method == "sample" else params.chunk_vectors * 4
    vectors = {"vectors used": used * layout.codebooks, "vectors in all": layout.train_vectors * layout.codebooks}
    print_cost_estimate(
        "codebook", out, vectors,
        disk_bytes=params.num_codes * layout.codebooks * layout.dim * 4 + layout.disk_bytes,
        memory_bytes=800 * 2**20 + (held + params.num_codes * 4) * layout.dim * 4,
    )  # fmt: skip


def check_flash(section: str, machine: Machine) -> None:
    """`UserError` where flash-kmeans cannot run, with what to do."""
    missing = []
    if machine.device == "cpu" or not torch.cuda.is_available():
        missing.append("a GPU (machine.device: auto)")
    if find_spec(FLASH) is None:
        missing.append("the package: uv pip install flash-kmeans")
    if missing:
        raise impossible(f"{section}.engine", "flash", f"it needs {' and '.join(missing)}; or use engine: faiss")


def make_twin(inputs: Inputs, seed: int, device: torch.device) -> Encoder:
    """The encoder's architecture with random weights."""
    return random_twin(inputs.encoder, seed_of("codebook", "twin", seed), device)


def open_features(
    inputs: Inputs, layout: Layout, twin: Encoder | None, params: Kmeans, machine: Machine, work: Path,
    device: torch.device,
) -> Features:  # fmt: skip
    """Features from the artifact, or computed."""
    if not layout.computed:
        return stored_features(inputs, layout, params.normalize)
    encoder = twin or load_encoder(inputs.encoder, device)
    network = EncoderFeatures(encoder, layout.blocks, layout.final_norm, params.layers == "separate")
    return computed_features(inputs, layout, params.normalize, network, machine, work)


def cluster(
    features: Features, codebook: int, used: int, params: Kmeans, work: Path, device: torch.device
) -> tuple[Tensor, Curves]:
    """float32 [K, D] of one codebook and its curves."""
    if params.method == "sample":
        return ENGINES[params.engine](features.sample(codebook, used, params.seed), params, device)
    return stream(features, codebook, params, work, device)


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
    _, found, steps = import_module(FLASH).batch_kmeans_Euclid(
        features[None], params.num_codes, max_iters=params.iterations, tol=0.0, init_centroids=start[None]
    )
    vectors, curves = found[0].float(), Curves()
    errors = [(part - vectors[nearest(part, vectors)]).square().sum().double() for part in features.split(2**16)]
    curves.log(int(steps), objective=float(torch.stack(errors).sum()))
    return vectors.cpu(), curves


ENGINES = {"faiss": cluster_by_faiss, "flash": cluster_by_flash}


def join(curves: list[Curves]) -> Curves:
    """The curves of all codebooks; those of several are named layer0/objective, layer1/objective …"""
    if len(curves) == 1:
        return curves[0]
    joined = Curves()
    for codebook, own in enumerate(curves):
        for step, scalars in own.rows:
            joined.log(step, **{f"layer{codebook}/{name}": value for name, value in scalars.items()})
    return joined


def codes_of(features: Features, split: str, codebook: Codebook, chunk_vectors: int) -> Iterator[Tensor]:
    """int64 [up to chunk_vectors], chunk by chunk: the codes of one split, codebook by codebook."""
    for number, vectors in enumerate(codebook.vectors.chunk(features.layout.codebooks)):
        own = Codebook(vectors, codebook.normalize)
        for chunk in features.chunks(split, number, chunk_vectors):
            yield own.assign(torch.from_numpy(chunk).to(vectors.device)) + number * len(vectors)


def publish(
    inputs: Inputs, params: Kmeans, features: Features, codebook: Codebook, twin: Encoder | None, counts: dict[str, int]
) -> None:
    """The codebook artifact with its encoder and map inside."""
    layout = features.layout
    sources = ("images", "encoder", "features")
    with new_codebook(
        inputs, params.kind, codebook.vectors, sources, normalize=params.normalize, grid=round(layout.patches**0.5),
        codebooks=layout.codebooks, blocks=layout.blocks, layers=params.layers, final_norm=layout.final_norm, **counts,
    ) as folder:  # fmt: skip
        if features.feature_map:
            save_tensors(folder / PROJECTION, features.feature_map.state_dict())
        if twin:
            save_twin(folder / ENCODER, twin, {"of": artifact.digest(inputs.encoder), "seed": params.seed})
        else:
            artifact.copy(inputs.encoder, folder / ENCODER)


def save_twin(folder: Path, twin: Encoder, origin: dict[str, Any]) -> None:
    """An encoder artifact with the twin's weights; `origin` says which encoder it is the twin of."""
    config = {key: value for key, value in twin.config.items() if key not in ("artifact", "files")}
    with artifact.new_artifact(folder, "encoder", {**config, "random_twin": origin}) as inner:
        save_tensors(inner / "model.safetensors", twin.vit.state_dict())
