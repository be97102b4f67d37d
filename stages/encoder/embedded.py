"""This repository's own networks as they were trained, copied without torch, whose import takes seconds."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from stages.core import artifact
from stages.core.params import impossible
from stages.encoder.params import EncoderParams

FILE = "model.safetensors"


def is_embedded(embedded: Path, params: EncoderParams) -> bool:
    """True if the folder `embedded` holds the network of that name."""
    return (embedded / params.name / artifact.CONFIG).is_file()


def keeps_its_size(embedded: Path, params: EncoderParams) -> bool:
    """True if the network of that name was trained at params.img_px."""
    return artifact.read_config(embedded / params.name, "encoder")["img_px"] == params.img_px


def copy(embedded: Path, out: Path, params: EncoderParams) -> None:
    """Write the encoder artifact `out` with the weights in `embedded`, as float32."""
    refuse_weights(embedded, params)
    trained = artifact.read_config(embedded / params.name, "encoder")
    config = {"name": params.name, "img_px": params.img_px, "precision": params.precision}
    config |= {key: trained[key] for key in ("patch_px", "dim", "depth", "shape", "seed", "mean", "std")}
    state = load_file(artifact.checked(embedded / params.name, FILE))
    with artifact.new_artifact(out, "encoder", config) as folder:
        save_file({key: array.astype(np.float32) for key, array in state.items()}, folder / FILE)
    print(summary(params, config, sum(array.size for array in state.values())))


def refuse_weights(embedded: Path, params: EncoderParams) -> None:
    """Raise if a file of weights is given for a network that has its own."""
    if params.weights:
        raise impossible("encoder.weights", params.weights, f"{params.name} has its own in {embedded}; expected ''")


def summary(params: EncoderParams, config: dict, count: int) -> str:
    """The line that says what was written."""
    sizes = ", ".join(f"{side} x {side} of {dim}" for side, dim in config.get("maps", []))
    blocks = sizes or f"of {config['dim']}, patch {config['patch_px']} px"
    return f"encoder: {params.name}, {config['depth']} blocks {blocks}, {count:,} parameters"
