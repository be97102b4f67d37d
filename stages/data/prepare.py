"""Images of a source -> WebDataset shards of square RGB images, split into train and val, with an index.

Run:    python -m stages.data.prepare --out data/images
Expect: digits: 1,500 + 297 images of 32 px, 7 MB, seconds. 20,000 scenes of 32 px: 165 MB, half a minute on two cores.
        ImageNet at 256 px as jpg: 45 GB, about an hour on 16 cores.

Shards hold <key>.png|jpg, .cls (class number), .json (name, class) and sidecars (stages/data/sidecars.py). The index
(config.json) counts images and classes, hashes every file and lists what was refused and why. <split>.labels.npy is
int64 [images]; <split>.places.npy is int64 [images, 4]: key, shard number, offset and size of the image in bytes.

DVC notices new files in a source folder only if that folder is among the stage's `deps`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.core import artefact, distributed, runtime, shards
from stages.core.errors import UserError
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.core.progress import bar
from stages.core.scratch import scratch
from stages.data.candidates import Candidate, Picture, Refused, Source, refusal
from stages.data.decode import pillow_warnings
from stages.data.digits import open_digits
from stages.data.folder import open_folder
from stages.data.reader import KIND
from stages.data.scenes import Scenes, open_scenes

JPG_QUALITY = 95
SHOWN = 20  # refused files on the console
LEAST_IMAGES = 2  # a split of one has no covariance for a distance between image sets
TAR_BYTES = 3 * 1024  # headers and padding of an image's members
BASE_BYTES = 200 * 10**6  # Python and its libraries


class Params(Section):
    source: Literal["digits", "scenes", "folder"]
    folder: str
    scenes: Scenes
    img_px: int = Field(ge=8, le=4096)
    val_fraction: float = Field(gt=0, lt=1)
    shard_images: int = Field(gt=0)
    format: Literal["png", "jpg"]
    seed: int = Field(ge=0, lt=2**32)

    @model_validator(mode="after")
    def folder_fits_source(self) -> Params:
        if self.source == "folder" and not Path(self.folder or "?").is_dir():
            raise ValueError(f"folder = {self.folder!r}: with source: folder, expected a folder of images")
        if self.source != "folder" and self.folder:
            raise ValueError(f'folder = {self.folder!r}: source: {self.source} reads no folder, expected ""')
        return self


def prepare(out: Path, params: Params, machine: Machine) -> None:
    """Write the images artefact `out`; `UserError` where a split is left without images."""
    source = open_source(params)
    parts = cut(source, params.shard_images)
    with pillow_warnings(), distributed.process_group(), scratch("data", params, [], source.facts) as work:
        announce(out, work, source, params, machine)
        build = shard_builder(source, parts, params.format, machine.num_workers)
        with bar("data", len(shards.share(list(parts))), 0, "shards") as progress:
            shards.write_shards(work, list(parts), build, progress.update)
        distributed.barrier()
        entries = shards.read_facts(work, list(parts))
        refused = sorted(source.refused + [item for entry in entries for item in entry["refused"]], key=json.dumps)
        check_splits(entries, refused, params)
        if distributed.rank() == 0:
            publish(work, out, entries, refused, source.classes, params)
        distributed.barrier()


def open_source(params: Params) -> Source:
    """The candidates of the source that the params name."""
    if params.source == "digits":
        return open_digits(params.img_px, params.val_fraction, params.seed)
    if params.source == "scenes":
        return open_scenes(params.scenes, params.img_px, params.val_fraction, params.seed)
    return open_folder(Path(params.folder), params.img_px, params.val_fraction, params.seed)


def cut(source: Source, shard_images: int) -> dict[str, list[Candidate]]:
    """{shard name: its slice of a split's candidates}."""
    return {
        f"{split}-{start // shard_images:06d}": candidates[start : start + shard_images]
        for split, candidates in source.splits.items()
        for start in range(0, len(candidates), shard_images)
    }


def announce(out: Path, work: Path, source: Source, params: Params, machine: Machine) -> None:
    """Print the plan; shards that an earlier attempt left need no more space."""
    count = sum(map(len, source.splits.values()))
    image_bytes = params.img_px**2 * 3 // (1 if params.format == "png" else 6)
    done = sum(path.stat().st_size for path in work.glob("*.tar"))
    print_plan(
        "data",
        out,
        {"images": count},
        disk_bytes=max(0, count * (image_bytes + TAR_BYTES) - done),
        memory_bytes=BASE_BYTES + max(1, machine.num_workers) * source.decode_bytes,
    )


def shard_builder(
    source: Source, parts: dict[str, list[Candidate]], image_format: str, num_workers: int
) -> shards.Build:
    """How to make the shard of a name: good images become records; labels and refusals its facts, in order."""

    def build(name: str) -> tuple[Iterable[shards.Record], dict[str, Any]]:
        facts: dict[str, Any] = {"field": image_format, "labels": [], "refused": []}
        return records(parts[name], facts), facts

    def records(candidates: list[Candidate], facts: dict[str, Any]) -> Iterator[shards.Record]:
        size = source.batch_images
        groups = [candidates[start : start + size] for start in range(0, len(candidates), size)]
        for group, results in zip(groups, in_threads(attempt, groups, num_workers), strict=True):
            for candidate, result in zip(group, results, strict=True):
                if isinstance(result, Refused):
                    facts["refused"].append(refusal(candidate.name, str(result)))
                else:
                    facts["labels"].append(candidate.label)
                    yield candidate.key, result

    def attempt(group: list[Candidate]) -> list[dict[str, bytes] | Refused]:
        opened = zip(group, source.open(group), strict=True)
        return [found if isinstance(found, Refused) else encode(one, found, image_format) for one, found in opened]

    return build


def encode(candidate: Candidate, picture: Picture, image_format: str) -> dict[str, bytes]:
    """{member: bytes} of one image."""
    file = io.BytesIO()
    picture.image.save(file, {"png": "png", "jpg": "jpeg"}[image_format], quality=JPG_QUALITY)  # png has no quality
    note = json.dumps({"name": candidate.name, "class": candidate.label})
    members = {image_format: file.getvalue(), "cls": str(candidate.label).encode(), "json": note.encode()}
    return {**members, **picture.extras}


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """`map` in threads; at most two results a thread wait for their turn, so memory stays bounded."""
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
    """`UserError` if train or val has too few good images."""
    counts = {split: sum(entry["samples"] for entry in of_split(entries, split)) for split in ("train", "val")}
    if min(counts.values()) < LEAST_IMAGES:
        reasons = "".join(f"\n  {item['name']}: {item['reason']}" for item in refused[:SHOWN])
        raise UserError(
            f"data.folder = {params.folder!r}: {counts['train']} good images for train and {counts['val']} for val "
            f"(val_fraction {params.val_fraction}), expected at least {LEAST_IMAGES} each; "
            f"{len(refused)} files refused{reasons}"
        )


def of_split(entries: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """The entries of a split's shards that hold images."""
    return [entry for entry in entries if entry["name"].startswith(f"{split}-") and entry["samples"]]


def publish(
    work: Path,
    out: Path,
    entries: list[dict[str, Any]],
    refused: list[dict[str, str]],
    classes: list[str],
    params: Params,
) -> None:
    """Turn the finished shards into the artefact `out`, and print what became of the source."""
    chosen = {"source", "img_px", "format", "val_fraction", "seed", *({"scenes"} & {params.source})}
    config: dict[str, Any] = params.model_dump(include=chosen)
    config |= {"classes": classes, "splits": {}, "refused": refused}
    with artefact.new_artefact(out, KIND, config) as folder:
        for split in ("train", "val"):
            config["splits"][split] = publish_split(work, folder, split, of_split(entries, split), classes)
    counts = " and ".join(f"{facts['images']:,} {split}" for split, facts in config["splits"].items())
    print(f"data: {counts} images, {len(classes)} classes, {len(refused)} files refused", flush=True)
    for item in refused[:SHOWN]:
        print(f"  refused {item['name']}: {item['reason']}")
    if len(refused) > SHOWN:
        print(f"  ... and {len(refused) - SHOWN} more, listed in {out / artefact.CONFIG}")


def publish_split(
    work: Path, folder: Path, split: str, entries: list[dict[str, Any]], classes: list[str]
) -> dict[str, Any]:
    """Put a split's shards and arrays into `folder`; its part of the index."""
    import numpy as np

    places, listed = [], []
    for number, entry in enumerate(entries):
        path = shards.place(work, folder, entry["name"])
        places += [(int(key), number, offset, size) for key, offset, size in shards.members(path, entry["field"])]
        listed.append({name: entry[name] for name in ("name", "samples", "sha256", "field")})
        listed[-1]["bytes"] = os.path.getsize(path)
    labels = np.array([label for entry in entries for label in entry["labels"]], np.int64)
    np.save(folder / f"{split}.labels.npy", labels)
    np.save(folder / f"{split}.places.npy", np.array(places, np.int64))
    per_class = {name: int((labels == number).sum()) for number, name in enumerate(classes)}
    return {"images": len(labels), "per_class": per_class, "shards": listed}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    prepare(args.out, load("data", Params, args.params), load("machine", Machine, args.params))


if __name__ == "__main__":
    runtime.run(main, parallel=True)
