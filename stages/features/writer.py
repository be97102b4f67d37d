"""The features artifact: the frozen encoder's features of the images, written shard by shard."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core import artifact, distributed
from stages.core.distributed import random_subset
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.images import to_float
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.schemas import maps_of
from stages.core.scratch import scratch
from stages.data import shards
from stages.data.reader import ImageSplit, num_images
from stages.encoder.encoder import WEIGHTS, Encoder, block_number, check_final_norm, load_encoder
from stages.features.params import Params, peak_bytes
from stages.features.reader import FIELD

SPLITS = ("train", "val")
Part = tuple[str, np.ndarray]  # split, numbers of its images


def write_features(images: Path, encoder: Path, out: Path, params: Params, machine: Machine) -> None:
    """Write the features artifact `out`; every process of a torchrun writes its share of the shards."""
    config = artifact.read_config(encoder, "encoder")
    block = block_number("features.block", params.block, config["depth"])
    parts = split_into_shards(images, params)
    side, dim = maps_of(config)[block]
    num_patches = side**2
    with process_group(), scratch(out, params, [images, encoder], meet=barrier) as work:
        count, weights = sum(len(index) for _, index in parts.values()), (encoder / WEIGHTS).stat().st_size
        print_estimate(out, work, count, num_patches * dim, num_patches, peak_bytes(weights, config, block, machine))
        network = load_encoder(encoder, pick_device(machine.device))
        check_final_norm("features.final_norm", params.final_norm, network)
        sources = {split: ImageSplit(images, split, machine.num_workers) for split in SPLITS}
        build = shard_builder(network, sources, parts, block, params.final_norm, machine.infer_batch_size)
        with bar("features", len(shards.share(list(parts))), 0, "shard") as progress:
            shards.write_shards(work, list(parts), build, progress.update)
        barrier()
        if distributed.rank() == 0:
            facts = {"block": block, "final_norm": params.final_norm, "num_patches": num_patches, "dim": dim}
            inputs = {"images": artifact.digest(images), "encoder": artifact.digest(encoder)}
            publish(work, out, list(parts), {**facts, "inputs": inputs})
        barrier()


def split_into_shards(images: Path, params: Params) -> dict[str, Part]:
    """{shard name: its images}: all val images, and the train images or a random subset of them."""
    parts: dict[str, Part] = {}
    for split in SPLITS:
        count = num_images(images, split)
        limit = params.max_train_images or count if split == "train" else count
        index = random_subset(count, limit, params.seed)
        for start in range(0, len(index), params.shard_images):
            name = f"{split}-{start // params.shard_images:06d}"
            parts[name] = split, index[start : start + params.shard_images]
    return parts


def shard_builder(
    network: Encoder,
    sources: dict[str, ImageSplit],
    parts: dict[str, Part],
    block: int,
    final_norm: bool,
    batch_size: int,
) -> shards.Build:
    """The function that builds the shard of a given name: float16 [N, D] per image."""

    def build(name: str) -> tuple[Iterable[shards.Record], dict[str, Any]]:
        return records(*parts[name]), {}

    @torch.inference_mode()
    def records(split: str, index: np.ndarray) -> Iterator[shards.Record]:
        for start in range(0, len(index), batch_size):
            batch = index[start : start + batch_size]
            pixels = to_float(sources[split].read(batch), network.mean.device)
            features = network(pixels, blocks=[block], final_norm=final_norm)[0].half().cpu().numpy()
            for key, features_ND in zip(sources[split].keys_of(batch), features, strict=True):
                content = io.BytesIO()
                np.save(content, features_ND)
                yield key, {FIELD: content.getvalue()}

    return build


def publish(work: Path, out: Path, names: list[str], config: dict[str, Any]) -> None:
    """Turn the finished shards into the artifact `out`."""
    entries, hashes = shards.read_facts(work, names), dict[str, str]()
    config["splits"] = {}
    with artifact.new_artifact(out, "features", config, hashes) as folder:
        for split in SPLITS:
            config["splits"][split] = shards.collect_split(work, folder, split, entries, hashes)


def print_estimate(out: Path, work: Path, count: int, values: int, num_patches: int, memory_bytes: int) -> None:
    """Print what the stage will cost: 2 bytes per value. Shards that an earlier attempt left need no more space."""
    done = sum(path.stat().st_size for path in work.glob("*.tar"))
    print_cost_estimate(
        "features",
        out,
        {"images": count, "vectors": count * num_patches},
        disk_bytes=max(0, count * (values * 2 + 1024) - done),
        memory_bytes=memory_bytes,
    )
