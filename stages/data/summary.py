"""What the data stage prints at its end: what was kept, what was left out and why."""

from pathlib import Path
from typing import Any

from stages.core.artifact import CONFIG

SHOWN = 20  # names on the console


def print_summary(config: dict[str, Any], out: Path) -> None:
    """Print the counts of the artifact `out` with this config.json, and the first names of what is unusual."""
    refused, classes = config["refused"], config["classes"]
    counts = " and ".join(f"{facts['images']:,} {split}" for split, facts in config["splits"].items())
    print(f"data: {counts} images, {len(classes)} classes, {len(refused)} files refused", flush=True)
    for item in refused[:SHOWN]:
        print(f"  refused {item['name']}: {item['reason']}")
    if len(refused) > SHOWN:
        print(f"  ... and {len(refused) - SHOWN} more, listed in {out / CONFIG}")
    print_sidecars([*config["splits"].values()])
    print_names("without a good train image, so no classes", config["dropped_classes"])
    print_names("classes without a val image", config["classes_without_val"])
    print_names("images moved from val to train, where their class had none", config["moved_to_train"])
    for note in config["notes"]:
        print(f"data: {note}")


def print_sidecars(splits: list[dict[str, Any]]) -> None:
    """Print how many images have captions, boxes and masks, if any has one."""
    total = sum(facts["images"] for facts in splits)
    counts = {noun: sum(facts["sidecars"][noun] for facts in splits) for noun in splits[0]["sidecars"]}
    if any(counts.values()):
        print(f"data: {', '.join(f'{noun} {count:,}' for noun, count in counts.items())} of {total:,} images")
    if captions := sum(facts.get("captions", 0) for facts in splits):
        print(f"data: {captions:,} captions in all; images without: {total - counts['captions']:,}")


def print_names(what: str, names: list[str]) -> None:
    """Print a count and the first names, if there are any."""
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"data: {len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
