"""Feature extraction as the stage does it, against the bare forward pass on the same pixels in memory.

Run:    OMP_NUM_THREADS=1 uv run python -m benchmarks.features              (after: uv run dvc repro data encoder)
Expect: medians of 5 alternated rounds in CPU time, in fp32 and bf16: milliseconds of the forward pass per image, and
        its share of what the stage takes, which reads, decodes, computes, and writes shards with their hashes. The
        encoder of the digits, then ViT-S/16 with random weights on JPEGs of 224 px; four minutes.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

from benchmarks.images import make_images
from stages.core.images import to_float
from stages.core.params import Machine, load
from stages.core.runtime import keep_memory
from stages.data.reader import ImageSplit
from stages.data.shards import write_shard
from stages.encoder.encoder import Encoder, load_encoder
from stages.features.writer import shard_builder

NAME, PHOTO = "train-000000", (500, 375)
VIT = {"img_px": 224, "patch_px": 16, "dim": 384, "mean": [0.5] * 3, "std": [0.5] * 3}


def vit_small() -> Encoder:
    """ViT-S/16 with random weights."""
    network = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)
    return Encoder(network, dict(VIT))


def in_parts(count: int, size: int) -> list[np.ndarray]:
    """0 … count - 1 in batches."""
    return np.split(np.arange(count), range(size, count, size))


def works(network: Encoder, images: Path, block: int, count: int, size: int) -> dict[str, Callable[[], object]]:
    """The bare forward pass and the stage's work, on the first `count` train images."""
    source, index = ImageSplit(images, "train"), np.arange(count)
    pixels = [to_float(source.read(part)) for part in in_parts(count, size)]
    build = shard_builder(network, {"train": source}, {NAME: ("train", index)}, block, True, size)

    @torch.inference_mode()
    def forward() -> None:
        for part in pixels:
            network(part, blocks=[block], final_norm=True)

    def stage() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_shard(Path(folder), NAME, build)

    return {"forward": forward, "stage": stage}


def compare(title: str, network: Encoder, images: Path, block: int, count: int, size: int, rounds: int) -> None:
    """Print the medians of both number formats, and their ratios."""
    work, taken = works(network, images, block, count, size), dict[tuple[str, str], list[float]]()
    for _ in range(rounds + 1):
        for precision in ("fp32", "bf16"):
            network.config["precision"] = precision
            for name, run in work.items():
                started = time.process_time()
                run()
                taken.setdefault((precision, name), []).append(time.process_time() - started)
    medians = {key: statistics.median(seconds[1:]) / count for key, seconds in taken.items()}
    for precision in ("fp32", "bf16"):
        bare, whole = medians[precision, "forward"], medians[precision, "stage"]
        of_fp32 = whole / medians["fp32", "stage"]
        print(
            f"{title}, {precision}: forward {bare * 1e3:.3g} ms an image, {bare / whole:.3f} of the stage's "
            f"{whole * 1e3:.3g} ms; the stage {of_fp32:.2f} of its time in fp32",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--digits", type=int, default=500, help="images of 32 px")
    parser.add_argument("--jpegs", type=int, default=16, help="images of 224 px")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_memory()  # as every stage does
    digits = load_encoder(args.data / "encoder")
    compare("digits", digits, args.data / "images", 2, args.digits, 50, args.rounds)
    machine, params = load("machine", Machine).model_copy(update={"num_workers": 0}), Path("params.yaml").absolute()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        made = make_images(2 * args.jpegs, PHOTO, VIT["img_px"], params, machine)
        compare("ViT-S/16, 224 px", vit_small(), made, 11, args.jpegs, 8, args.rounds)


if __name__ == "__main__":
    main()
