"""A codebook fitted on the stored features of one block, as cluster makes it: its usage and its artefact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.codebook.sources import Sources
from stages.core import artefact, shards
from stages.core.codes import code_dtype

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.quantise import Codebook


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


def publish(out: Path, sources: Sources, codebook: Codebook, kind: str, **more: Any) -> None:
    """Write the codebook artefact `out`; `more` enters its config."""
    from safetensors.torch import save_file

    features, num_codes = artefact.read_config(sources.features, "features"), len(codebook.vectors)
    inputs = {"features": artefact.digest(sources.features), "encoder": artefact.digest(sources.encoder)}
    facts = {
        "tokenizer": kind, "rows": "frozen",
        "num_codes": num_codes, "dim": features["dim"], "dtype": code_dtype(num_codes),
        "normalise": codebook.normalise,
        "blocks": [features["block"]], "layers": "concat", "final_norm": features["final_norm"],
        "grid": round(features["num_patches"] ** 0.5), "num_patches": features["num_patches"],
        "encoder": os.path.relpath(sources.encoder, out), "inputs": inputs,
    }  # fmt: skip
    with artefact.new_artefact(out, "codebook", {**facts, **more}) as folder:
        save_file({"vectors": codebook.vectors.cpu().contiguous()}, folder / "codes.safetensors")
