"""kmeans: k-means of a frozen encoder's patch features -> code vectors (DiGIT, NeurIPS 2024).

Digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors, 20 iterations:
an estimated 45 minutes on 16 cores or one on a GPU, from docs/benchmarks.md, which times vectors half as wide. The
command prints how many vectors it used; faiss's own sub-sampling is off. A GPU is used where there is one.

Features come from the features artifact, from other blocks, or from the encoder's untrained twin. The twin is the
control that shows what training the encoder is worth. They may be projected (kmeans_features.py), and are clustered in
memory, here, or streamed (streaming.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.codebook.dead_codes import count_batches, write_usage
from stages.codebook.encoder_features import ENCODER, PROJECTION, EncoderFeatures
from stages.codebook.engines import ENGINES, check_engine
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
from stages.codebook.quantizers import Codebook
from stages.codebook.sharing import add_up, from_first
from stages.codebook.streaming import stream
from stages.codebook.tokenizer import new_codebook
from stages.core import artifact
from stages.core.distributed import rank, seed_of
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.metrics import usage
from stages.core.networks import save_tensors
from stages.core.params import Machine, impossible
from stages.core.progress import print_cost_estimate
from stages.core.results import Curves
from stages.core.scratch import scratch
from stages.encoder.encoder import Encoder, load_encoder, random_twin

REMEDY = "lower num_codes, or cluster more different vectors (max_vectors: 0, more images)"  # for dead codes


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
    """Write the codebook artifact, its curves and usage metrics; the processes of a torchrun share the vectors.

    Methods lloyd and minibatch share the clustering, too. Method sample clusters in the first process, with its threads
    alone, while the others wait: faiss and flash-kmeans have no way to share it.
    """
    layout = layout_of(inputs, params)
    check_engine(inputs.section, params.engine, machine)
    used = vectors_used(layout, params)
    estimate(inputs.out, layout, used, params)
    sources = [inputs.images, inputs.encoder, inputs.features]
    with process_group(), scratch(inputs.out, params, sources, meet=barrier) as work:
        device = pick_device(machine.device)
        twin = make_twin(inputs, params.seed, device) if params.encoder == "random" else None
        features = open_features(inputs, layout, twin, params, machine, work, device)
        features.feature_map = fit_feature_map(features, params)
        fitted = [cluster(features, number, used, params, work, device) for number in range(layout.codebooks)]
        codebook = Codebook(torch.cat([vectors for vectors, _ in fitted]), params.normalize).to(device)
        by_split = {split: usage_of(features, split, codebook, params.chunk_vectors) for split in SPLITS}
        if rank() == 0:
            counts = {"vectors_used": used, "vectors_total": layout.train_vectors}
            (curves := join([curves for _, curves in fitted])).follow(machine.tracker, work)
            report(inputs, curves, len(codebook.vectors), by_split, counts)
            publish(inputs, params, features, codebook, twin, counts)
        barrier()


def report(
    inputs: Inputs, curves: Curves, num_codes: int, by_split: dict[str, dict[str, float]], counts: dict[str, int]
) -> None:
    """Print and write what came of it."""
    objective = sum(value for name, value in curves.last().items() if name.endswith("objective"))
    used, total = counts.values()
    print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {objective:.6g}")
    write_usage(inputs, curves, num_codes, by_split, REMEDY, objective=objective, **counts)


def estimate(out: Path, layout: Layout, used: int, params: Kmeans) -> None:
    """Print what is in memory at once, and computed features on disk."""
    vectors = {"vectors used": used * layout.codebooks, "vectors in all": layout.train_vectors * layout.codebooks}
    print_cost_estimate(
        "codebook", out, vectors,
        disk_bytes=params.num_codes * layout.codebooks * layout.dim * 4 + layout.disk_bytes,
        memory_bytes=params.peak_bytes(used, layout.dim),
    )  # fmt: skip


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
    if params.method != "sample":
        return stream(features, codebook, params, work, device)
    curves = Curves()

    def find() -> tuple[Tensor, Any]:
        vectors, found = ENGINES[params.engine](features.sample(codebook, used, params.seed), params, device)
        return vectors, found.rows  # curves as a whole hold functions of a tracker, which cannot be sent

    vectors, curves.rows = from_first(find)
    return vectors, curves


def join(curves: list[Curves]) -> Curves:
    """The curves of all codebooks; those of several are named layer0/objective, layer1/objective …"""
    if len(curves) == 1:
        return curves[0]
    joined = Curves()
    for codebook, own in enumerate(curves):
        for step, scalars in own.rows:
            joined.log(step, **{f"layer{codebook}/{name}": value for name, value in scalars.items()})
    return joined


def usage_of(features: Features, split: str, codebook: Codebook, chunk_vectors: int) -> dict[str, float]:
    """Usage metrics of all codes of a split; every process of a torchrun counts its share."""
    counts = count_batches(codes_of(features, split, codebook, chunk_vectors), len(codebook.vectors))
    add_up(counts)
    return usage(counts)


def codes_of(features: Features, split: str, codebook: Codebook, chunk_vectors: int) -> Iterator[Tensor]:
    """int64 [up to chunk_vectors], chunk by chunk: this process's share of a split's codes, codebook by codebook."""
    for number, vectors in enumerate(codebook.vectors.chunk(features.layout.codebooks)):
        own = Codebook(vectors, codebook.normalize)
        for chunk in features.chunks(split, number, chunk_vectors, features.own(split)):
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
