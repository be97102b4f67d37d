"""The data stage's artifact of the embedded digits: 1,797 scans of 8 px in shards of 256."""

import os
import signal
from pathlib import Path

import toy as toys

from stages.core.params import Machine, load
from stages.data import shards
from stages.data.params import Params
from stages.data.writer import write_images

PREPARE = "stages.data.prepare --out images"
YAML = """
data: {source: digits, folder: data/code/no_folder, scenes: {count: 40, max_objects: 3, patterned: 0.8, nuisance: 0.5},
       val_folder: data/code/no_folder, captions: data/code/no_folder,
       webdataset: {shards: [], val_shards: [], class_field: cls, caption_field: txt},
       crop: center, background: "#ffffff", png_level: 6,
       img_px: 8, val_fraction: 0.16528, shard_images: 256, format: png, seed: 0}
machine: {device: cpu, num_workers: 0, infer_batch_size: 8, micro_batch_size: 0, shard_above: 1.0e+9,
  recompute_activations: false, compile: "off", checkpoint_share: 0.02, tracker: none}
"""


def make(out: Path, num_workers: int = 0, **changes) -> Path:
    """Write params.yaml here and the artifact to `out`, with changed params."""
    Path("params.yaml").write_text(YAML)
    params = load("data", Params).model_copy(update=changes)
    write_images(out, params, load("machine", Machine).model_copy(update={"num_workers": num_workers}))
    return out


def prepare_until_killed(root: str, shards_whole: int) -> None:
    """The stage's command in `root`; it kills this process once so many shards are whole."""
    whole = shards.write_shard

    def write_shard(folder: Path, name: str, build: shards.Build) -> None:
        whole(folder, name, build)
        if len([*folder.glob("*.json")]) == shards_whole:
            os.kill(os.getpid(), signal.SIGKILL)

    shards.write_shard = write_shard
    toys.run_line(PREPARE, Path(root))
