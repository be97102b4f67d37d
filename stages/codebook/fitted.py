"""The artefact of a codebook fitted on rows of a frozen encoder, as kmeans and cluster make it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.codebook.sources import Sources
from stages.core import artefact
from stages.core.codes import code_dtype

if TYPE_CHECKING:
    from stages.codebook.frozen import RowMap
    from stages.codebook.quantise import Codebook
    from stages.encoder.model import Encoder


def publish(
    out: Path, sources: Sources, kind: str, codebook: Codebook, row_map: RowMap | None = None,
    twin: tuple[Encoder, int] | None = None, **facts: Any,
) -> None:  # fmt: skip
    """Write the codebook artefact `out`, with the map of rows and the random twin (and its seed) inside if there are.

    Rows are those of the features artefact, but for what `facts`, which enter the config, say otherwise.
    """
    from stages.codebook.frozen import PROJECTION

    features, (num_codes, dim) = artefact.read_config(sources.features, "features"), codebook.vectors.shape
    inputs = {"features": artefact.digest(sources.features), "encoder": artefact.digest(sources.encoder)}
    config = {
        "tokenizer": kind, "rows": "frozen",
        "num_codes": num_codes, "dim": dim, "dtype": code_dtype(num_codes), "normalise": codebook.normalise,
        "blocks": [features["block"]], "layers": "concat", "final_norm": features["final_norm"],
        "grid": round(features["num_patches"] ** 0.5), "num_patches": features["num_patches"],
        "encoder": "encoder" if twin else os.path.relpath(sources.encoder, out), "inputs": inputs, **facts,
    }  # fmt: skip
    with artefact.new_artefact(out, "codebook", config) as folder:
        artefact.save_tensors(folder / "codes.safetensors", {"vectors": codebook.vectors})
        if row_map:
            artefact.save_tensors(folder / PROJECTION, row_map.state_dict())
        if twin:
            save_twin(folder / "encoder", *twin, inputs["encoder"])
            inputs["images"], inputs["twin_of"] = artefact.digest(sources.images), inputs["encoder"]
            inputs["encoder"] = artefact.sha256(folder / "encoder" / artefact.CONFIG)


def save_twin(folder: Path, twin: Encoder, seed: int, origin: str) -> None:
    """An encoder artefact with the twin's weights; `origin` is the digest of the encoder it is the twin of."""
    config = {key: value for key, value in twin.config.items() if key not in ("kind", "files")}
    with artefact.new_artefact(folder, "encoder", {**config, "random_twin": {"of": origin, "seed": seed}}) as inner:
        artefact.save_tensors(inner / "model.safetensors", twin.vit.state_dict())
