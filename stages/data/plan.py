"""Which classes there are, and which image goes into which split, once it is known which images can be used.

A class without a usable train image is no class. Where the source allows it, such a class first gives train its val
image of the lowest order, so that only classes without any usable image go. Other classes never matter.
"""

import hashlib
import json
from collections.abc import Set
from typing import NamedTuple

from stages.data.source import Candidate, Source, refusal

Splits = dict[str, list[Candidate]]


class Plan(NamedTuple):
    """`classes` and `splits` as of the source, with labels that count the classes that are left."""

    classes: list[str]
    splits: Splits  # refused images keep their places, so that shards hold the same images with and without them
    dropped: list[str]  # classes without a usable train image
    moved: list[str]  # names of val images that went to train
    refused: list[dict[str, str]]  # usable val images of dropped classes


def arrange(source: Source, refused: Set[str]) -> Plan:
    """The plan where the images with these names cannot be used."""
    moved = rescued(source, refused)
    moves = {candidate.key for candidate in moved}
    train = sorted([*source.splits["train"], *moved], key=lambda candidate: candidate.key) if moved else None
    splits = {
        "train": train or source.splits["train"],
        "val": [candidate for candidate in source.splits["val"] if candidate.key not in moves],
    }
    trained = {candidate.label for candidate in splits["train"] if candidate.name not in refused}
    kept = [label for label in range(len(source.classes)) if label in trained]
    numbers = {-1: -1} | {label: number for number, label in enumerate(kept)}
    left_out = [one for one in splits["val"] if one.label not in numbers and one.name not in refused]
    return Plan(
        classes=[source.classes[label] for label in kept],
        splits={split: renumber(found, numbers, {one.key for one in left_out}) for split, found in splits.items()},
        dropped=[name for label, name in enumerate(source.classes) if label not in trained],
        moved=sorted(candidate.name for candidate in moved),
        refused=[refusal(one.name, f"{source.classes[one.label]!a} has no train image") for one in left_out],
    )


def rescued(source: Source, refused: Set[str]) -> list[Candidate]:
    """The usable val image of the lowest order of each class without a usable train image."""
    order = source.order
    if order is None:
        return []
    trained = {candidate.label for candidate in source.splits["train"] if candidate.name not in refused}
    lowest: dict[int, Candidate] = {}
    for one in source.splits["val"]:
        if one.label in trained or one.label < 0 or one.name in refused:
            continue
        lowest[one.label] = min(lowest.get(one.label, one), one, key=lambda each: order(each.name))
    return list(lowest.values())


def renumber(candidates: list[Candidate], numbers: dict[int, int], left_out: Set[str]) -> list[Candidate]:
    """The candidates with new labels, -1 for those of dropped classes, without those left out.

    Those whose label stays are the same objects, since there may be millions.
    """
    kept = (one for one in candidates if one.key not in left_out)
    return [one if (new := numbers.get(one.label, -1)) == one.label else one._replace(label=new) for one in kept]


def split_into_shards(splits: Splits, shard_images: int) -> dict[str, list[Candidate]]:
    """{shard name: its slice of the candidates of a split}."""
    return {
        f"{split}-{start // shard_images:06d}": candidates[start : start + shard_images]
        for split, candidates in splits.items()
        for start in range(0, len(candidates), shard_images)
    }


def digest(candidates: list[Candidate]) -> str:
    """A hash of what a shard is made from."""
    return hashlib.sha256(json.dumps(candidates).encode()).hexdigest()
