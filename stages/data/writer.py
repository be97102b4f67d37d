"""The images artifact: images of a source become shards, labels and an index.

Shards hold <key>.png|jpg, .cls (class number), .json (name, class) and sidecars (stages/data/sidecars.py). config.json
counts images and classes, hashes every file and lists what was refused and why. <split>.labels.npy is int64 [images],
<split>.index.npy the index of stages/data/shards.py.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import UserError, artifact, distributed
from stages.core.hardware import barrier, process_group
from stages.core.params import Machine
from stages.core.progress import BASE_BYTES, bar, print_cost_estimate
from stages.core.scratch import scratch
from stages.data import shards
from stages.data.captions import FIELD, lines_of
from stages.data.decode import pillow_warnings
from stages.data.digits import open_digits
from stages.data.folder import open_folder
from stages.data.params import Params
from stages.data.plan import Plan, arrange, digest, split_into_shards
from stages.data.scenes.scenes import open_scenes
from stages.data.shard_source import open_shards
from stages.data.sidecars import count_sidecars
from stages.data.source import Candidate, Prepared, Refused, Source, refusal
from stages.data.summary import SHOWN, print_summary
from stages.data.threads import in_threads

SOURCES: dict[str, Callable[[Params], Source]] = {
    "digits": open_digits,
    "scenes": open_scenes,
    "folder": open_folder,
    "webdataset": open_shards,
}
FILES = {"crop", "background"}
RECORDED = {"digits": set(), "scenes": {"scenes"}, "folder": FILES, "webdataset": FILES}  # in config.json
JPG_QUALITY = 95
REFUSED = "refused.json"  # in scratch: names of images that cannot be used, if that changed the plan
LEAST_IMAGES = 2  # per split; a single image has no covariance, which FID needs
TAR_BYTES = 3 * 1024  # headers and padding of the members of an image


def write_images(out: Path, params: Params, machine: Machine) -> None:
    """Write the images artifact `out`; `UserError` where a split is left without images."""
    with pillow_warnings(), process_group():
        source = SOURCES[params.source](params)
        with scratch(out, params, [], source.facts, meet=barrier) as work:
            print_estimate(out, work, source, params, machine)
            plan, entries = write_planned(work, source, params, machine)
            found = [item for entry in entries for item in entry["refused"]]
            refused = sorted(source.refused + plan.refused + found, key=json.dumps)
            check_splits(entries, refused, params)
            if distributed.rank() == 0:
                publish(work, out, entries, refused, plan, source, params)
            barrier()


def write_planned(work: Path, source: Source, params: Params, machine: Machine) -> tuple[Plan, list[dict[str, Any]]]:
    """Write all shards; return their plan and facts.

    Which images can be used is known once they have been decoded. If that changes the plan, the shards that it changes
    are written again. What is known is kept in `work`, so that a killed run continues with the last plan.
    """
    known = work / REFUSED
    refused = set((artifact.read_with_checksum(known) or {"names": []})["names"])
    while True:
        plan = arrange(source, refused)
        entries = write_shards(work, source, split_into_shards(plan.splits, params.shard_images), params, machine)
        refused |= {item["name"] for entry in entries for item in entry["refused"]}
        if (changed := arrange(source, refused)) == plan:
            return plan, entries
        if distributed.rank() == 0:
            artifact.write_atomically(known, artifact.with_checksum({"names": sorted(refused)}))
            print(f"data: {explain(plan, changed)}; the shards that this changes are written again", flush=True)


def explain(plan: Plan, changed: Plan) -> str:
    """What unusable images change in a plan."""
    gone, moved = len(plan.classes) - len(changed.classes), len({*changed.moved} - {*plan.moved})
    return f"{gone} classes have no good image, {moved} need one of val for train"


def write_shards(
    work: Path, source: Source, parts: dict[str, list[Candidate]], params: Params, machine: Machine
) -> list[dict[str, Any]]:
    """Write the shards that are not there, or there with other images; the facts of all."""
    names = list(parts)
    for name in shards.share(names):
        facts = artifact.read_with_checksum(entry := work / f"{name}.json")
        if facts is None or facts["candidates"] != digest(parts[name]):
            entry.unlink(missing_ok=True)
    build = shard_builder(source, parts, params, machine.num_workers)
    with bar("data", len(shards.share(names)), 0, "shards") as progress:
        shards.write_shards(work, names, build, progress.update)
    barrier()
    entries = shards.read_facts(work, names)
    barrier()  # no process replaces a shard whose facts another one still reads
    return entries


def print_estimate(out: Path, work: Path, source: Source, params: Params, machine: Machine) -> None:
    """Print what the stage will cost; shards that an earlier attempt left need no more space."""
    count = sum(map(len, source.splits.values()))
    done = sum(path.stat().st_size for path in work.glob("*.tar"))
    print_cost_estimate(
        "data",
        out,
        {"images": count},
        disk_bytes=max(0, count * bytes_per_image(params) - done),
        memory_bytes=peak_bytes(source.decode_bytes, machine),
    )


def peak_bytes(decode_bytes: int, machine: Machine) -> int:
    """Memory of one process: each of its threads decodes an image, or a batch of scenes."""
    return BASE_BYTES + max(1, machine.num_workers) * decode_bytes


def bytes_per_image(params: Params) -> int:
    """In a shard, at most: PNG as large as its pixels, JPEG a sixth of them."""
    return params.img_px**2 * 3 // (1 if params.format == "png" else 6) + TAR_BYTES


def shard_builder(source: Source, parts: dict[str, list[Candidate]], params: Params, num_workers: int) -> shards.Build:
    """The function that builds a named shard: usable images become records; labels and refusals its facts, in order."""

    def build(name: str) -> tuple[Iterable[shards.Record], dict[str, Any]]:
        facts: dict[str, Any] = {"labels": [], "refused": [], "candidates": digest(parts[name]), "captions": 0}
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
                    facts["captions"] += len(lines_of(result.get(FIELD, b"").decode()))
                    yield candidate.key, result

    def members_of(group: list[Candidate]) -> list[dict[str, bytes] | Refused]:
        opened = zip(group, source.open(group), strict=True)
        return [found if isinstance(found, Refused) else encode(one, found, params) for one, found in opened]

    return build


def encode(candidate: Candidate, prepared: Prepared, params: Params) -> dict[str, bytes]:
    """{field: bytes} of one image."""
    file = io.BytesIO()
    if params.format == "png":
        prepared.image.save(file, "png", compress_level=params.png_level)
    else:
        prepared.image.save(file, "jpeg", quality=JPG_QUALITY)
    note = json.dumps({"name": candidate.name, "class": candidate.label})
    fields = {params.format: file.getvalue(), "cls": str(candidate.label).encode(), "json": note.encode()}
    return {**fields, **prepared.sidecars}


def check_splits(entries: list[dict[str, Any]], refused: list[dict[str, str]], params: Params) -> None:
    """`UserError` if train or val has too few usable images."""
    train, val = (
        sum(entry["samples"] for entry in entries if entry["name"].startswith(f"{split}-"))
        for split in ("train", "val")
    )
    if min(train, val) < LEAST_IMAGES:
        key = "folder" if "crop" in RECORDED[params.source] else "source"
        reasons = "".join(f"\n  {item['name']}: {item['reason']}" for item in refused[:SHOWN])
        raise UserError(
            f"data.{key} = {getattr(params, key)!r}: {train} good images for train and {val} for val "
            f"(data.val_fraction {params.val_fraction}; a class keeps one in train), expected at least {LEAST_IMAGES} "
            f"each; {len(refused)} files refused{reasons}"
        )


def publish(
    work: Path,
    out: Path,
    entries: list[dict[str, Any]],
    refused: list[dict[str, str]],
    plan: Plan,
    source: Source,
    params: Params,
) -> None:
    """Turn the finished shards into the artifact `out`, and print what was kept and what was refused."""
    recorded = {"source", "img_px", "format", "val_fraction", "seed"} | RECORDED[params.source]
    config: dict[str, Any] = params.model_dump(include=recorded)
    config |= {"classes": plan.classes, "splits": {}, "refused": refused, "notes": source.notes}
    config |= {"dropped_classes": plan.dropped, "moved_to_train": plan.moved}
    hashes: dict[str, str] = {}
    with artifact.new_artifact(out, "images", config, hashes) as folder:
        for split in ("train", "val"):
            facts = shards.collect_split(work, folder, split, entries, hashes)
            facts["sidecars"] = count_sidecars(np.load(folder / f"{split}.index.npy"))
            facts |= count_captions(split, entries)
            config["splits"][split] = facts | {"per_class": save_labels(folder, split, entries, plan.classes)}
        config["classes_without_val"] = [name for name, n in config["splits"]["val"]["per_class"].items() if not n]
    print_summary(config, out)


def count_captions(split: str, entries: list[dict[str, Any]]) -> dict[str, int]:
    """{"captions": how many a split has}, several per image counted; {} without any."""
    captions = sum(entry["captions"] for entry in entries if entry["name"].startswith(f"{split}-"))
    return {"captions": captions} if captions else {}


def save_labels(folder: Path, split: str, entries: list[dict[str, Any]], classes: list[str]) -> dict[str, int]:
    """Write <split>.labels.npy; how many images each class has."""
    own = [entry["labels"] for entry in entries if entry["name"].startswith(f"{split}-")]
    labels = np.array([label for part in own for label in part], np.int64)
    np.save(folder / f"{split}.labels.npy", labels)
    return {name: int((labels == number).sum()) for number, name in enumerate(classes)}
