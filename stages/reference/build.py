"""Real training images in every feature space -> data/reference: what reconstructions and samples are compared with.

Run:    dvc repro reference
Expect: digits, 1,500 images: some seconds, 6 MB.

Spaces are that of the pipeline's encoder ("embedded"); that of the judge, which no tokenizer knows, where images have
classes; that of Inception-v3 where reference.inception_weights names a file. Convert torch-fidelity's published weights
(weights-inception-2015-12-05-6726825d.pth) once:
    python -c "import torch, safetensors.torch as s; s.save_file(torch.load('IN.pth', weights_only=True), 'OUT')"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from stages.core import artefact, runtime
from stages.core.choice import choose
from stages.core.params import Machine, Section, impossible, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, num_images
from stages.reference.reader import FILE, peak_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from stages.reference.sight import Sight

INCEPTION_DIM = 2048 + 1008  # features and logits


class Params(Section):
    max_images: int = Field(ge=0)
    prc_neighbours: int = Field(gt=0)
    pixel_px: int = Field(gt=0)
    inception_weights: str
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("inception_weights")
    @classmethod
    def weights_are_there(cls, path: str) -> str:
        if path and (Path(path).suffix != ".safetensors" or not Path(path).is_file()):
            raise ValueError(f"{path!r}: expected '' or an existing .safetensors file (pickles are never read)")
        return path


def build(images: Path, encoder: Path, judge: Path, out: Path, params: Params, machine: Machine) -> None:
    """Write the artefact `out`; more neighbours than the images can have are an error at once."""
    announce(images, encoder, judge, out, params)
    import torch

    from stages.core.device import pick_device
    from stages.reference.extractor import open_spaces
    from stages.reference.sight import look_at, looker

    spaces = open_spaces(encoder, judge, params.inception_weights, pick_device(machine.device))
    train = ImageSplit(images, "train", machine.num_workers)
    index = choose(len(train), count(images, params), params.seed)
    look = looker(spaces, params.pixel_px)
    sight = look_at(len(index), lambda run: train.read(index[run.start : run.stop]), look, machine.infer_batch_size)
    config = params.model_dump() | {"count": len(index), "spaces": {name: one.facts for name, one in spaces.items()}}
    config["inputs"] = {"images": artefact.digest(images), "encoder": artefact.digest(encoder)}
    config["inputs"] |= {"judge": artefact.digest(judge)}
    with artefact.new_artefact(out, "reference", config) as folder:
        seen = {"index": torch.from_numpy(index), **tensors(sight, params.prc_neighbours)}
        artefact.save_tensors(folder / FILE, seen)
        print(f"reference: {len(index):,} train images in the spaces {', '.join(spaces)}")


def tensors(sight: Sight, neighbours: int) -> dict[str, Tensor]:
    """What load_reference reads."""
    from stages.reference.balls import ball_radii

    found = {"thumbs": sight.thumbs}
    for space, features in sight.features.items():
        found |= {f"features.{space}": features, f"radii.{space}": ball_radii(features, neighbours)}
    return found


def count(images: Path, params: Params) -> int:
    """How many train images are compared with."""
    whole = num_images(images, "train")
    return min(whole, params.max_images or whole)


def announce(images: Path, encoder: Path, judge: Path, out: Path, params: Params) -> None:
    """Print the plan; refuse balls around more images than there are."""
    images_seen, shape = count(images, params), artefact.read_config(judge, "judge")["shape"]
    if params.prc_neighbours >= images_seen:
        allowed = f"expected at most {images_seen - 1}: there are {images_seen} train images to compare with"
        raise impossible("reference.prc_neighbours", params.prc_neighbours, allowed)
    dim = artefact.read_config(encoder, "encoder")["dim"] + (2 * shape["widths"][-1] if shape else 0)
    dim += INCEPTION_DIM if params.inception_weights else 0
    disk_bytes = images_seen * 4 * (dim + 3 * params.pixel_px**2 + 3)
    counts = {"train images to compare with": images_seen}
    print_plan("reference", out, counts, disk_bytes, peak_bytes(images_seen, dim, params.pixel_px))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact: the embedded feature space")
    parser.add_argument("--judge", type=Path, required=True, help="judge artefact: a feature space of its own")
    parser.add_argument("--out", type=Path, required=True, help="reference artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("reference", Params, args.params), load("machine", Machine, args.params)
    build(args.images, args.encoder, args.judge, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main)
