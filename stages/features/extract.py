"""Images -> patch features of one block of the frozen encoder, float16 [N, D] an image, in WebDataset shards.

Run:    dvc repro features        (more processes: torchrun --nproc-per-node=8 -m stages.features.extract …)
Expect: digits: 29 MB, 10 s on two cores. ImageNet, every tenth train image, DINOv2-B: 70 GB, about 10 minutes on a GPU.

Finished shards survive a kill: the same command goes on behind them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.core import artefact, distributed, runtime, shards
from stages.core.choice import choose
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, num_images
from stages.encoder.blocks import block_number

if TYPE_CHECKING:
    import numpy as np

    from stages.encoder.model import Encoder


class Params(Section):
    block: int
    final_norm: bool
    max_train_images: int = Field(ge=0)
    shard_images: int = Field(gt=0)
    seed: int = Field(ge=0)


def extract(images: Path, encoder: Path, out: Path, params: Params, machine: Machine) -> None:
    """Write the features artefact `out`; every process of a torchrun makes its share of the shards."""
    from stages.core.device import pick_device
    from stages.core.progress import bar
    from stages.core.scratch import scratch
    from stages.encoder.model import load_encoder

    config = artefact.read_config(encoder, "encoder")
    block = block_number("features.block", params.block, config["depth"])
    chosen = {split: choose_images(images, split, params) for split in ("train", "val")}
    parts = {
        f"{split}-{start // params.shard_images:06d}": (split, index[start : start + params.shard_images])
        for split, index in chosen.items()
        for start in range(0, len(index), params.shard_images)
    }
    num_patches = (config["img_px"] // config["patch_px"]) ** 2
    with distributed.process_group(), scratch("features", params, [images, encoder]) as work:
        announce(out, work, sum(map(len, chosen.values())), num_patches, config["dim"], machine)
        network = load_encoder(encoder, pick_device(machine.device))
        sources = {split: ImageSplit(images, split, machine.num_workers) for split in chosen}
        build = build_shard(network, sources, parts, block, params.final_norm, machine.infer_batch_size)
        with bar("features", len(shards.share(list(parts))), 0, "shard") as progress:
            shards.write_shards(work, list(parts), build, progress.update)
        distributed.barrier()
        if distributed.rank() == 0:
            facts = {"block": block, "final_norm": params.final_norm, "num_patches": num_patches, "dim": config["dim"]}
            inputs = {"images": artefact.digest(images), "encoder": artefact.digest(encoder)}
            publish(work, out, list(parts), {**facts, "inputs": inputs})
        distributed.barrier()


def choose_images(images: Path, split: str, params: Params) -> np.ndarray:
    """int64 [M], sorted: all val images; a seeded choice of at most max_train_images train images (0: all)."""
    count = num_images(images, split)
    return choose(count, params.max_train_images or count if split == "train" else count, params.seed)


def build_shard(
    network: Encoder,
    sources: dict[str, ImageSplit],
    parts: dict[str, tuple[str, np.ndarray]],
    block: int,
    final_norm: bool,
    batch_size: int,
) -> shards.Build:
    """How to make one shard of features."""
    import numpy as np
    import torch

    from stages.core.pixels import to_float

    def build(name: str) -> tuple[Any, dict[str, Any]]:
        split, index = parts[name]

        @torch.inference_mode()
        def records():  # noqa: ANN202
            for start in range(0, len(index), batch_size):
                batch = index[start : start + batch_size]
                pixels = to_float(sources[split].read(batch), network.mean.device)
                feats = network(pixels, blocks=[block], final_norm=final_norm)[0].half().cpu().numpy()
                for i, feat_ND in zip(batch, feats, strict=True):
                    buffer = io.BytesIO()
                    np.save(buffer, feat_ND)
                    yield sources[split].keys[i], {"npy": buffer.getvalue()}

        return records(), {"field": "npy"}

    return build


def publish(work: Path, out: Path, names: list[str], config: dict[str, Any]) -> None:
    """Make the artefact from the finished shards."""
    facts = dict(zip(names, shards.read_facts(work, names), strict=True))
    splits = {}
    for split in ("train", "val"):
        own = [entry for name, entry in facts.items() if name.startswith(f"{split}-")]
        splits[split] = {"images": sum(entry["samples"] for entry in own), "shards": own}
    shards.publish_shards(work, out, names, {"kind": "features", **config, "splits": splits})


def announce(out: Path, work: Path, count: int, num_patches: int, dim: int, machine: Machine) -> None:
    """Print the plan: 2 bytes a value; about 20 activations of 4 bytes a value and image of a batch.

    Shards that an earlier attempt left need no more space.
    """
    values = num_patches * dim
    done = sum(path.stat().st_size for path in work.glob("*.tar"))
    print_plan(
        "features", out, {"images": count, "vectors": count * num_patches},
        disk_bytes=max(0, count * (values * 2 + 1024) - done),
        memory_bytes=600 * 2**20 + machine.infer_batch_size * values * 80,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder artefact")
    parser.add_argument("--out", type=Path, required=True, help="features artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("features", Params, args.params), load("machine", Machine, args.params)
    block_number("features.block", params.block, artefact.read_config(args.encoder, "encoder")["depth"])
    artefact.find(args.images)
    extract(args.images, args.encoder, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
