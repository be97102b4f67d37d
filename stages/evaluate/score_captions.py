"""Caption accuracy of the samples of every generator that captions condition, of real images, and by chance."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.hardware import pick_device
from stages.core.params import Machine
from stages.core.results import write_metrics
from stages.data.reader import ImageSplit
from stages.data.scenes.attributes import ATTRIBUTES, attributes_of
from stages.decoder.decoder import Decoder, check_drawn, load_decoder
from stages.evaluate.caption_checker import load_checker
from stages.evaluate.caption_checker_training import accuracies, attributes_in, read_images
from stages.evaluate.evaluator import decode, print_summary
from stages.evaluate.samples import Samples, load_samples
from stages.evaluate.score_generation import over_seeds
from stages.generator.sample_conditions import CAPTIONS

NONE = "no generator in use has condition: caption"


def score_captions(
    images: Path, checker: Path, decoder: Path, samples: Path, generators: list[str], report: Path, machine: Machine
) -> None:
    """Write metrics.json to the folder `report`; `samples` holds a samples artifact per generator."""
    artifact.check_made_from(checker, f"studies/dvc.yaml:caption_checker@{checker.name}", images=images)
    device, val = pick_device(machine.device), ImageSplit(images, "val", machine.num_workers)
    decoding = load_decoder(decoder, device)
    read = partial(read_images, load_checker(checker, device), batch_size=machine.infer_batch_size, device=device)
    real = with_chance(read(len(val), val.read), attributes_in(images, "val"))
    results: dict[str, Any] = {"images": artifact.images_digest(images), "val": {**real, "count": len(val)}}
    protocol = [{"of": "val", **protocol_of(checker)}]
    for name in (name for name in generators if (samples / name / CAPTIONS).is_file()):
        drawn, labels = open_drawn(samples / name, images, decoder)
        found = [with_chance(read(len(codes), shown_fn(decoding, codes, seed)), labels)
                 for seed, codes in zip(drawn.seeds, drawn.codes, strict=True)]  # fmt: skip
        results[name] = {**over_seeds(found), "count": len(labels)}
        sampling = {"sampler": drawn.config["sampling"], "seeds": drawn.seeds}
        protocol.append({"of": name, **protocol_of(checker), **sampling})
    results |= {"skipped": NONE} if len(protocol) == 1 else {}
    write_metrics(report, {**results, "protocol": protocol})
    print_summary("caption_accuracy", results)


def protocol_of(checker: Path) -> dict[str, Any]:
    """What must be equal for two caption accuracies to be compared."""
    digest = artifact.digest(checker)[:12]
    return {"reference_digest": digest, "attributes": [*ATTRIBUTES], "decoding_precision": "fp32"}


def open_drawn(folder: Path, images: Path, decoder: Path) -> tuple[Samples, np.ndarray]:
    """The samples of a generator, and what their captions say, int64 [samples, attributes]."""
    drawn = load_samples(folder)
    check_drawn(folder, drawn.config, decoder)
    artifact.check_made_from(folder, f"samples@{folder.parent.name}-{folder.name}", images=images)
    captions = artifact.checked(folder, CAPTIONS).read_bytes().decode().split("\n")
    return drawn, np.array([attributes_of(caption) for caption in captions], np.int64)


def shown_fn(decoder: Decoder, codes: np.ndarray, seed: int) -> Callable[[range], np.ndarray]:
    """A range of samples -> their images, uint8 [B, H, W, 3]."""
    return lambda part: decode(decoder, codes[part.start : part.stop], seed)


def with_chance(found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{caption_accuracy[shape]: …, chance[shape]: …, …}: accuracies, and those expected with one another's captions.

    int64 [M, attributes] each.
    """
    each = {f"caption_accuracy[{name}]": value for name, value in accuracies(found, labels).items()}
    for at, (name, values) in enumerate(ATTRIBUTES.items()):
        named = labels[:, at] >= 0
        if named.any():
            shares = [np.bincount(one[named, at], minlength=len(values)) / named.sum() for one in (found, labels)]
            each[f"chance[{name}]"] = float(shares[0] @ shares[1])
    return each
