"""The text artifact: the captions of an images artifact, and what one text encoder makes of them.

encoder/                 the text_encoder artifact: a vocabulary, or a copy of the frozen text model
<split>.captions.txt     every caption, in the order of the images; <split>.captions.lines.npy: their places in it
<split>.first.npy        int64 [images + 1]: captions first[i] ... first[i + 1] - 1 are those of image i
<split>.labels.npy       int64 [images]: classes, -1 without
and ids or features of every caption, by kind (vocabulary.py, transformer.py).
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.distributed import rank
from stages.core.hardware import barrier, process_group
from stages.core.params import Machine
from stages.core.progress import print_cost_estimate
from stages.core.scratch import scratch
from stages.data.captions import Captions
from stages.data.reader import ImageSplit
from stages.text.lines import Lines, write_lines
from stages.text.params import KINDS, TextEncoder

SPLITS = ("train", "val")
CAPTIONS, PLACES, FIRST, LABELS = "captions.txt", "captions.lines.npy", "first.npy", "labels.npy"


def write_text(name: str, images: Path, out: Path, params: TextEncoder, machine: Machine) -> None:
    """Write the text artifact `out`; `UserError` where no train image has a caption.

    Every process of a torchrun encodes its share.
    """
    module = import_kind(KINDS[params.kind].module)
    with process_group(), scratch(out, params, [images], meet=barrier) as work:
        texts, encoder = open_captions(images, work), work / "encoder"
        if rank() == 0 and not (encoder / artifact.CONFIG).is_file():
            write_encoder(name, texts, encoder, params, machine, module)
        barrier()
        print_estimate(out, texts, artifact.read_config(encoder, "text_encoder")["shape"])
        for split in SPLITS:
            module.write_split(split, texts[split], encoder, work, machine)
        barrier()
        if rank() == 0:
            publish(name, images, work, out, module)
        barrier()


def open_captions(images: Path, work: Path) -> dict[str, Lines]:
    """The captions of both splits, which the first process lists; `UserError` where train has none."""
    if rank() == 0:
        for split in SPLITS:
            list_captions(images, split, work)
    barrier()
    texts = {split: Lines(work / f"{split}.{CAPTIONS}") for split in SPLITS}
    if not len(texts["train"]):
        raise UserError(f"{images}: no train image has a caption, so there is nothing to learn them from")
    return texts


def list_captions(images: Path, split: str, work: Path) -> None:
    """Write the captions of a split and the number of the first one of each image."""
    captions, counts = Captions(images, split), [0]

    def every() -> Iterator[str]:
        for number in range(len(captions)):
            own = captions.of(number)
            counts.append(counts[-1] + len(own))
            yield from own

    write_lines(work / f"{split}.{CAPTIONS}", every())
    np.save(work / f"{split}.{FIRST}", np.array(counts, np.int64))
    np.save(work / f"{split}.{LABELS}", ImageSplit(images, split).labels)


def write_encoder(
    name: str, texts: dict[str, Lines], out: Path, params: TextEncoder, machine: Machine, module: ModuleType
) -> None:
    """Write the text_encoder artifact, which needs no other to encode a caption."""
    config: dict[str, Any] = {"kind": params.kind, "name": name}
    with artifact.new_artifact(out, "text_encoder", config) as folder:
        config |= module.fit(name, texts, folder, params, machine)


def publish(name: str, images: Path, work: Path, out: Path, module: ModuleType) -> None:
    """Turn the finished files into the artifact `out`, and print what was cut and what is unknown."""
    config: dict[str, Any] = {**artifact.read_config(work / "encoder", "text_encoder"), "name": name, "splits": {}}
    config = {key: value for key, value in config.items() if key not in ("artifact", "files")}
    config["inputs"] = {"images": artifact.digest(images)}
    with artifact.new_artifact(out, "text", config) as folder:
        artifact.copy(work / "encoder", folder / "encoder")
        for split in SPLITS:
            first = np.load(work / f"{split}.{FIRST}")
            own = [CAPTIONS, PLACES, FIRST, LABELS]
            for file in [f"{split}.{end}" for end in own] + module.files_of(split, int(first[-1]), config):
                artifact.link(work / file, folder / file)
            facts = {"images": len(first) - 1, "captioned": int((np.diff(first) > 0).sum()), "captions": int(first[-1])}
            config["splits"][split] = facts | module.count(split, facts["captions"], work, config)
            print_counts(name, split, config["splits"][split], config["shape"]["length"])


def print_counts(name: str, split: str, facts: dict[str, int], length: int) -> None:
    """What became of the captions of a split."""
    print(f"text {name}: {split}: {facts['captions']:,} captions of {facts['captioned']:,} images; "
          f"{facts['images'] - facts['captioned']:,} images have none and train without")  # fmt: skip
    if facts["cut"]:
        print(
            f"text {name}: {split}: {facts['cut']:,} captions are longer than max_length = {length}: their ends are cut"
        )
    if facts.get("unknown"):
        print(f"text {name}: {split}: {facts['unknown']:,} of {facts['tokens']:,} tokens are unknown")


def print_estimate(out: Path, texts: dict[str, Lines], shape: dict[str, int]) -> None:
    """Ids take 2 bytes, features at most 4 per value."""
    count = sum(map(len, texts.values()))
    each = shape["length"] * (4 * shape["features"] if "features" in shape else 2)
    print_cost_estimate("text", out, {"captions": count}, count * each, 10**9)
