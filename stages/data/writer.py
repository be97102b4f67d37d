"""The images artifact: images of a source become shards, labels and an index.

Shards hold <key>.png|jpg, .cls (class number), .json (name, class) and sidecars (stages/data/sidecars.py). config.json
counts images and classes, hashes every file and lists what was refused and why. <split>.labels.npy is int64 [images],
<split>.index.npy the index of stages/core/shards.py.
"""

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact, distributed, shards
from stages.core.artifact import scratch
from stages.core.errors import UserError
from stages.core.hardware import barrier, process_group
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.data.decode import pillow_warnings
from stages.data.digits import open_digits
from stages.data.folder import open_folder
from stages.data.params import Params
from stages.data.scenes.scenes import open_scenes
from stages.data.source import Candidate, Prepared, Refused, Source, refusal

SOURCES: dict[str, Callable[[Params], Source]] = {
    "digits": open_digits,
    "scenes": open_scenes,
    "folder": open_folder,
}
JPG_QUALITY = 95
SHOWN = 20  # refused files on the console
LEAST_IMAGES = 2  # per split; a single image has no covariance, which FID needs
TAR_BYTES = 3 * 1024  # headers and padding of the members of an image
BASE_BYTES = 10**9  # Python and its libraries, above all torch, which webdataset imports


def write_images(out: Path, params: Params, machine: Machine) -> None:
    """Write the images artifact `out`; `UserError` where a split is left without images."""
    source = SOURCES[params.source](params)
    parts = split_into_shards(source, params.shard_images)
    with pillow_warnings(), process_group(), scratch(out, params, [], source.facts) as work:
        print_estimate(out, work, source, params, machine)
        build = shard_builder(source, parts, params.format, machine.num_workers)
        with bar("data", len(shards.share(list(parts))), 0, "shards") as progress:
            shards.write_shards(work, list(parts), build, progress.update)
        barrier()
        entries = shards.read_facts(work, list(parts))
        refused = sorted(source.refused + [item for entry in entries for item in entry["refused"]], key=json.dumps)
        check_splits(entries, refused, params)
        if distributed.rank() == 0:
            publish(work, out, entries, refused, source, params)
        barrier()


def split_into_shards(source: Source, shard_images: int) -> dict[str, list[Candidate]]:
    """{shard name: its slice of the candidates of a split}."""
    return {
        f"{split}-{start // shard_images:06d}": candidates[start : start + shard_images]
        for split, candidates in source.splits.items()
        for start in range(0, len(candidates), shard_images)
    }


def print_estimate(out: Path, work: Path, source: Source, params: Params, machine: Machine) -> None:
    """Print what the stage will cost; shards that an earlier attempt left need no more space."""
    count = sum(map(len, source.splits.values()))
    image_bytes = params.img_px**2 * 3 // (1 if params.format == "png" else 6)
    done = sum(path.stat().st_size for path in work.glob("*.tar"))
    print_cost_estimate(
        "data",
        out,
        {"images": count},
        disk_bytes=max(0, count * (image_bytes + TAR_BYTES) - done),
        memory_bytes=BASE_BYTES + max(1, machine.num_workers) * source.decode_bytes,
    )


def shard_builder(
    source: Source, parts: dict[str, list[Candidate]], image_format: str, num_workers: int
) -> shards.Build:
    """The function that builds a named shard: usable images become records; labels and refusals its facts, in order."""

    def build(name: str) -> tuple[Iterable[shards.Record], dict[str, Any]]:
        facts: dict[str, Any] = {"labels": [], "refused": []}
        return records(parts[name], facts), facts

    def records(candidates: list[Candidate], facts: dict[str, Any]) -> Iterator[shards.Record]:
        size = source.batch_images
        groups = [candidates[start : start + size] for start in range(0, len(candidates), size)]
        for group, results in zip(groups, in_threads(members_of, groups, num_workers), strict=True):
            for candidate, result in zip(group, results, strict=True):
                if isinstance(result, Refused):
                    facts["refused"].append(refusal(candidate.name, str(result)))
                else:
                    facts["labels"].append(candidate.label)
                    yield candidate.key, result

    def members_of(group: list[Candidate]) -> list[dict[str, bytes] | Refused]:
        opened = zip(group, source.open(group), strict=True)
        return [found if isinstance(found, Refused) else encode(one, found, image_format) for one, found in opened]

    return build


def encode(candidate: Candidate, prepared: Prepared, image_format: str) -> dict[str, bytes]:
    """{field: bytes} of one image."""
    file = io.BytesIO()
    prepared.image.save(file, {"png": "png", "jpg": "jpeg"}[image_format], quality=JPG_QUALITY)  # png has no quality
    note = json.dumps({"name": candidate.name, "class": candidate.label})
    fields = {image_format: file.getvalue(), "cls": str(candidate.label).encode(), "json": note.encode()}
    return {**fields, **prepared.sidecars}


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """`map` in threads; at most two items per thread are submitted ahead, so memory stays bounded."""
    if num_workers == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(rest, 2 * num_workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))


def check_splits(entries: list[dict[str, Any]], refused: list[dict[str, str]], params: Params) -> None:
    """`UserError` if train or val has too few usable images."""
    counts = {
        split: sum(entry["samples"] for entry in entries if entry["name"].startswith(f"{split}-"))
        for split in ("train", "val")
    }
    if min(counts.values()) < LEAST_IMAGES:
        reasons = "".join(f"\n  {item['name']}: {item['reason']}" for item in refused[:SHOWN])
        raise UserError(
            f"data.folder = {params.folder!r}: {counts['train']} good images for train and {counts['val']} for val "
            f"(val_fraction {params.val_fraction}), expected at least {LEAST_IMAGES} each; "
            f"{len(refused)} files refused{reasons}"
        )


def publish(
    work: Path,
    out: Path,
    entries: list[dict[str, Any]],
    refused: list[dict[str, str]],
    source: Source,
    params: Params,
) -> None:
    """Turn the finished shards into the artifact `out`, and print what was kept and what was refused."""
    recorded = {"source", "img_px", "format", "val_fraction", "seed", *({"scenes"} & {params.source})}
    config: dict[str, Any] = params.model_dump(include=recorded)
    config |= {"classes": source.classes, "splits": {}, "refused": refused}
    hashes: dict[str, str] = {}
    with artifact.new_artifact(out, "images", config, hashes) as folder:
        for split in ("train", "val"):
            facts = shards.collect_split(work, folder, split, entries, hashes)
            config["splits"][split] = facts | {"per_class": save_labels(folder, split, entries, source.classes)}
    counts = " and ".join(f"{facts['images']:,} {split}" for split, facts in config["splits"].items())
    print(f"data: {counts} images, {len(source.classes)} classes, {len(refused)} files refused", flush=True)
    for note in source.notes:
        print(f"data: {note}")
    for item in refused[:SHOWN]:
        print(f"  refused {item['name']}: {item['reason']}")
    if len(refused) > SHOWN:
        print(f"  ... and {len(refused) - SHOWN} more, listed in {out / artifact.CONFIG}")


def save_labels(folder: Path, split: str, entries: list[dict[str, Any]], classes: list[str]) -> dict[str, int]:
    """Write <split>.labels.npy; how many images each class has."""
    own = [entry["labels"] for entry in entries if entry["name"].startswith(f"{split}-")]
    labels = np.array([label for part in own for label in part], np.int64)
    np.save(folder / f"{split}.labels.npy", labels)
    return {name: int((labels == number).sum()) for number, name in enumerate(classes)}
