"""This repository's own networks as they were trained, copied without torch, whose import takes seconds."""

import math
import shutil
from pathlib import Path

from safetensors import safe_open

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
    """Write the encoder artifact `out` with the bytes of the weights in `embedded`."""
    refuse_weights(embedded, params)
    trained = artifact.read_config(embedded / params.name, "encoder")
    config = {"name": params.name, "img_px": params.img_px, "precision": params.precision}
    config |= {key: trained[key] for key in ("patch_px", "dim", "depth", "shape", "seed", "mean", "std")}
    with artifact.new_artifact(out, "encoder", config) as folder:
        shutil.copyfile(artifact.checked(embedded / params.name, FILE), folder / FILE)
    with safe_open(out / FILE, framework="numpy") as tensors:
        count = sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())
    print(summary(params, config, count))


def refuse_weights(embedded: Path, params: EncoderParams) -> None:
    """Raise if a file of weights is given for a network that has its own."""
    if params.weights:
        raise impossible("encoder.weights", params.weights, f"{params.name} has its own in {embedded}; expected ''")


def summary(params: EncoderParams, config: dict, count: int) -> str:
    """The line that says what was written."""
    return (
        f"encoder: {params.name}, {config['depth']} blocks of {config['dim']}, "
        f"patch {config['patch_px']} px, {count:,} parameters"
    )
