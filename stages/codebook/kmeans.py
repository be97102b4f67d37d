"""kmeans: patch features of a frozen encoder -> code vectors (DiGIT, 1.1).

Digits: 256 codes from 96,000 vectors, seconds. K = 8,192 from 2.1 M DINOv2-B vectors: 10 minutes on 16 cores.
It says how many of how many vectors it used: faiss itself never sub-samples here. A GPU is used where there is one.

Rows come from the features artefact (rows.py), or from other blocks or the encoder's untrained twin, the control
that shows what training the encoder is worth. They may be projected (project.py), and are clustered in memory
(engines.py) or streamed (lloyd.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages.codebook import rows as sources_of_rows
from stages.codebook.rows import SPLITS, Layout, Rows
from stages.codebook.sources import Sources
from stages.codebook.usage import write_usage
from stages.core import artefact
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
        if self.engine == "flash" and (self.normalise or self.redo > 1):
            raise ValueError("engine: flash has no spherical k-means and no redo: expected normalise: false, redo: 1")
        return self


def check(section: str, sources: Sources, params: Params) -> None:
    """Too few vectors to cluster, and blocks and components that are not there, are errors."""
    shape = sources_of_rows.layout(section, sources, params)
    total, used = count_vectors(shape, params)
    at_once = min(used, params.chunk_vectors) if params.method != "sample" else used
    if params.num_codes > at_once:
        what = "vectors to cluster" if at_once == used else f"vectors of {section}.chunk_vectors, to start from"
        raise impossible(f"{section}.num_codes", params.num_codes, f"expected at most the {at_once:,} {what}")
    if params.pca_dim > shape.dim:
        raise impossible(f"{section}.pca_dim", params.pca_dim, f"expected at most the {shape.dim} values of a vector")


def count_vectors(shape: Layout, params: Params) -> tuple[int, int]:
    """How many train vectors a codebook has and how many will be used."""
    total = shape.images["train"] * shape.patches
    return total, min(total, params.max_vectors or total)


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out` and its usage figures to `report` (a folder)."""
    import torch

    from stages.codebook.engines import check_flash
    from stages.codebook.project import fit_affine
    from stages.codebook.quantise import Codebook
    from stages.core.device import pick_device
    from stages.core.scratch import scratch

    shape = sources_of_rows.layout(f"codebook.{out.name}", sources, params)
    if params.engine == "flash":
        check_flash(f"codebook.{out.name}", machine)
    total, used = count_vectors(shape, params)
    announce(out, shape, total, used, params)
    with scratch(f"codebook-{out.name}", params, [sources.images, sources.encoder, sources.features]) as work:
        device = pick_device(machine.device)
        twin = make_twin(sources, params.seed, device) if params.encoder == "random" else None
        rows = open_rows(sources, shape, twin, params, machine, work, device)
        rows.affine = fit_affine(rows, params)
        fitted = [cluster(rows, group, used, params, work, device) for group in range(shape.groups)]
        vectors, curves = torch.cat([vectors for vectors, _ in fitted]), join([curves for _, curves in fitted])
        objective = sum(value for name, value in curves.last().items() if name.endswith("objective"))
        print(f"codebook: fitted on {used:,} of {total:,} train vectors, objective {objective:.6g}")
        codebooks = [Codebook(vectors, params.normalise) for vectors, _ in fitted]
        usage_by_split = {split: count_usage(rows, split, codebooks, params.chunk_vectors) for split in SPLITS}
        publish(out, sources, params, rows, twin, vectors, {"vectors_used": used, "vectors_total": total})
    curves.write(report)
    write_usage(report, usage_by_split, vectors_used=used, vectors_total=total)


def announce(out: Path, shape: Layout, total: int, used: int, params: Params) -> None:
    """Print the plan: what is in memory at once, and computed rows on disk."""
    held = used * 2 if params.method == "sample" else params.chunk_vectors * 4
    print_plan(
        "codebook", out, {"vectors used": used * shape.groups, "vectors in all": total * shape.groups},
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


def count_usage(rows: Rows, split: str, codebooks: list[Codebook], chunk_vectors: int) -> dict[str, float]:
    """Usage figures of a split's rows, over the joint vocabulary of all groups."""
    import numpy as np
    import torch

    from stages.codebook.usage import usage

    counts = [np.zeros(len(codebook.vectors), np.int64) for codebook in codebooks]
    for group, codebook in enumerate(codebooks):
        for chunk in rows.chunks(split, group, chunk_vectors):
            codes = codebook.assign(torch.from_numpy(chunk)).numpy()
            counts[group] += np.bincount(codes, minlength=len(counts[group]))
    return usage(np.concatenate(counts))


def publish(
    out: Path, sources: Sources, params: Params, rows: Rows, twin: Encoder | None, vectors: Tensor,
    counts: dict[str, int],
) -> None:  # fmt: skip
    """The codebook artefact, with the map of rows and the random twin inside where there are any."""
    from safetensors.torch import save_file

    from stages.codebook.frozen import PROJECTION
    from stages.core.codes import code_dtype

    shape = rows.layout
    inputs = {"features": artefact.digest(sources.features), "encoder": artefact.digest(sources.encoder)}
    facts: dict[str, Any] = {
        "tokenizer": params.kind, "rows": "frozen",
        "num_codes": len(vectors), "dim": vectors.shape[1], "dtype": code_dtype(len(vectors)),
        "normalise": params.normalise,
        "blocks": shape.blocks, "layers": params.layers, "final_norm": shape.final_norm,
        "grid": round(shape.patches**0.5), "num_patches": shape.patches * shape.groups,
        "encoder": "encoder" if twin else os.path.relpath(sources.encoder, out), "inputs": inputs, **counts,
    }  # fmt: skip
    with artefact.new_artefact(out, "codebook", facts) as folder:
        save_file({"vectors": vectors}, folder / "codes.safetensors")
        if rows.affine:
            save_file(rows.affine.state_dict(), folder / PROJECTION)
        if twin:
            save_twin(folder / "encoder", twin, params.seed, inputs["encoder"])
            inputs["images"], inputs["twin_of"] = artefact.digest(sources.images), inputs["encoder"]
            inputs["encoder"] = artefact.sha256(folder / "encoder" / artefact.CONFIG)


def save_twin(folder: Path, twin: Encoder, seed: int, origin: str) -> None:
    """An encoder artefact with the twin's weights; `origin` is the digest of the encoder it is the twin of."""
    from safetensors.torch import save_file

    config = {key: value for key, value in twin.config.items() if key not in ("kind", "files")}
    with artefact.new_artefact(folder, "encoder", {**config, "random_twin": {"of": origin, "seed": seed}}) as inner:
        state = {key: tensor.cpu().contiguous() for key, tensor in twin.vit.state_dict().items()}
        save_file(state, inner / "model.safetensors")
