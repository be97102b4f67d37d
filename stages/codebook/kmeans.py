"""kmeans: patch features of a frozen encoder -> code vectors (DiGIT, 1.1).

Digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors, 20 iterations:
by multiplication 45 minutes on 16 cores, one on a GPU (LOG.md has an iteration of half as wide vectors).
It says how many of how many vectors it used: faiss itself never sub-samples here. A GPU is used where there is one.

Rows come from the features artefact (rows.py), or from other blocks or the encoder's untrained twin, the control
that shows what training the encoder is worth. They may be projected (project.py), and are clustered in memory
(engines.py) or streamed (lloyd.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from stages.codebook import rows as sources_of_rows
from stages.codebook.fitted import publish
from stages.codebook.rows import SPLITS, Layout, Rows
from stages.codebook.sources import Sources
from stages.codebook.usage import count_usage, write_usage
from stages.core.curves import Curves
from stages.core.params import Machine, Section, impossible
from stages.core.plan import print_plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.codebook.quantise import Codebook
    from stages.encoder.model import Encoder


class Params(Section):
    kind: Literal["kmeans"]
    encoder: Literal["pipeline", "random"]
    blocks: list[int]
    layers: Literal["concat", "separate"]
    pca_dim: int = Field(ge=0)
    whiten: float = Field(ge=0, le=1)
    num_codes: int = Field(gt=0, le=2**32)
    method: Literal["sample", "lloyd", "minibatch"]
    engine: Literal["faiss", "flash"]
    max_vectors: int = Field(ge=0)
    chunk_vectors: int = Field(gt=0)
    batch_vectors: int = Field(gt=0)
    start_iterations: int = Field(ge=0)
    iterations: int = Field(gt=0)
    init: Literal["random", "kmeans++", "afk-mc2"]
    redo: int = Field(gt=0)
    normalise: bool
    seed: int = Field(ge=0, lt=2**31)

    @model_validator(mode="after")
    def each_setting_is_obeyed(self) -> Params:
        in_memory = {"max_vectors": (self.max_vectors, 0), "redo": (self.redo, 1), "engine": (self.engine, "faiss")}
        for key, (value, only) in in_memory.items():
            if self.method != "sample" and value != only:
                raise ValueError(f"method: {self.method} passes over all vectors: expected {key}: {only}, got {value}")
        if self.method == "minibatch" and self.batch_vectors > self.chunk_vectors:
            at_once = f"{self.chunk_vectors} of chunk_vectors"
            raise ValueError(f"batch_vectors = {self.batch_vectors}: expected at most the {at_once}")
        if self.engine == "flash" and (self.normalise or self.redo > 1):
            raise ValueError("engine: flash has no spherical k-means and no redo: expected normalise: false, redo: 1")
        return self


def check(section: str, sources: Sources, params: Params) -> None:
    """Too few vectors to cluster, and blocks and components that are not there, are errors."""
    shape = sources_of_rows.layout(section, sources, params)
    used = vectors_used(shape, params)
    at_once = min(used, params.chunk_vectors) if params.method != "sample" else used
    if params.num_codes > at_once:
        what = "vectors to cluster" if at_once == used else f"vectors of {section}.chunk_vectors, to start from"
        raise impossible(f"{section}.num_codes", params.num_codes, f"expected at most the {at_once:,} {what}")
    if params.pca_dim > shape.dim:
        raise impossible(f"{section}.pca_dim", params.pca_dim, f"expected at most the {shape.dim} values of a vector")


def vectors_used(shape: Layout, params: Params) -> int:
    """How many of a group's train rows a codebook is fitted on."""
    return min(shape.train_rows, params.max_vectors or shape.train_rows)


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` and its usage figures to `report` (a folder)."""
    import torch

    from stages.codebook.engines import check_flash
    from stages.codebook.project import fit_row_map
    from stages.codebook.quantise import Codebook
    from stages.core.device import pick_device
    from stages.core.scratch import scratch

    shape = sources_of_rows.layout(f"codebook.{out.name}", sources, params)
    if params.engine == "flash":
        check_flash(f"codebook.{out.name}", machine)
    total, used = shape.train_rows, vectors_used(shape, params)
    announce(out, shape, used, params)
    with scratch(f"codebook-{out.name}", params, [sources.images, sources.encoder, sources.features]) as work:
        device = pick_device(machine.device)
        twin = make_twin(sources, params.seed, device) if params.encoder == "random" else None
        rows = open_rows(sources, shape, twin, params, machine, work, device)
        rows.row_map = fit_row_map(rows, params)
        fitted = [cluster(rows, group, used, params, work, device) for group in range(shape.groups)]
        codebook = Codebook(torch.cat([vectors for vectors, _ in fitted]), params.normalise).to(device)
        curves = join([curves for _, curves in fitted])
        objective = sum(value for name, value in curves.last().items() if name.endswith("objective"))
        print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {objective:.6g}")
        usage = {
            split: count_usage(codes_of(rows, split, codebook, params.chunk_vectors), len(codebook.vectors))
            for split in SPLITS
        }
        counts = {"vectors_used": used, "vectors_total": total}
        publish(
            out, sources, params.kind, codebook, rows.row_map, (twin, params.seed) if twin else None,
            blocks=shape.blocks, layers=params.layers, num_patches=shape.patches * shape.groups, **counts,
        )  # fmt: skip
    curves.write(report)
    write_usage(report, usage, **counts)


def announce(out: Path, shape: Layout, used: int, params: Params) -> None:
    """Print the plan: what is in memory at once, and computed rows on disk."""
    held = used * 2 if params.method == "sample" else params.chunk_vectors * 4
    print_plan(
        "codebook", out, {"vectors used": used * shape.groups, "vectors in all": shape.train_rows * shape.groups},
        disk_bytes=params.num_codes * shape.groups * shape.dim * 4 + shape.disk_bytes,
        memory_bytes=800 * 2**20 + (held + params.num_codes * 4) * shape.dim * 4,
    )  # fmt: skip


def make_twin(sources: Sources, seed: int, device: torch.device) -> Encoder:
    """The encoder's architecture with random weights."""
    from stages.core.rng import seed_of
    from stages.encoder.model import random_twin

    return random_twin(sources.encoder, seed_of("codebook", "twin", seed), device)


def open_rows(
    sources: Sources, shape: Layout, twin: Encoder | None, params: Params, machine: Machine, work: Path,
    device: torch.device,
) -> Rows:  # fmt: skip
    """Rows from the features artefact, or computed."""
    if not shape.computed:
        return sources_of_rows.stored_rows(sources, shape, params.normalise)
    from stages.codebook.frozen import FrozenRows
    from stages.encoder.model import load_encoder

    encoder = twin or load_encoder(sources.encoder, device)
    network = FrozenRows(encoder, shape.blocks, shape.final_norm, params.layers == "separate")
    return sources_of_rows.computed_rows(sources, shape, params.normalise, network, machine, work)


def cluster(
    rows: Rows, group: int, used: int, params: Params, work: Path, device: torch.device
) -> tuple[Tensor, Curves]:  # fmt: skip
    """float32 [K, D] of one group and its curves."""
    if params.method == "sample":
        from stages.codebook.engines import ENGINES

        return ENGINES[params.engine](rows.sample(group, used, params.seed), params, device)
    from stages.codebook.lloyd import stream

    return stream(rows, group, params, work, device)


def join(curves: list[Curves]) -> Curves:
    """The curves of all groups; those of several are named layer0/objective, layer1/objective …"""
    if len(curves) == 1:
        return curves[0]
    joined = Curves()
    for group, own in enumerate(curves):
        for step, scalars in own.rows:
            joined.log(step, **{f"layer{group}/{name}": value for name, value in scalars.items()})
    return joined


def codes_of(rows: Rows, split: str, codebook: Codebook, chunk_vectors: int) -> Iterator[Tensor]:
    """int64 [up to chunk_vectors], chunk by chunk: a split's codes, those of one group after those of the other."""
    import torch

    from stages.codebook.quantise import Codebook

    for group, vectors in enumerate(codebook.vectors.chunk(rows.layout.groups)):
        own = Codebook(vectors, codebook.normalise)
        for chunk in rows.chunks(split, group, chunk_vectors):
            yield own.assign(torch.from_numpy(chunk).to(vectors.device)) + group * len(vectors)
