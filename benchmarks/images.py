"""Large JPEGs decoded at a fraction of their size against whole ones; an index of 1.28 million images, opened.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/images.py
Expect: medians of 5 alternated rounds in CPU seconds, their ratio, the difference of the pixels; seconds and memory of
        the index; half a minute, 100 MB in a temporary folder.
"""

import argparse
import contextlib
import io
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.core import artifact
from stages.core.params import Machine, load
from stages.data.decode import decode_rgb, to_square
from stages.data.params import Params
from stages.data.reader import ImageSplit
from stages.data.shards import index_type
from stages.data.writer import write_images

FIELDS, SHARD_IMAGES, CLASSES = ("jpg", "cls", "json"), 1000, 1000


def draw_jpegs(count: int, size: tuple[int, int]) -> list[bytes]:
    """Smooth color fields with noise of 6 gray levels."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        field = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(size)
        noisy = np.asarray(field) + rng.normal(0, 6, (size[1], size[0], 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=90)
        files.append(file.getvalue())
    return files


def make_images(count: int, size: tuple[int, int], img_px: int, params: Path, machine: Machine) -> Path:
    """The artifact `images` in the current folder, of such JPEGs in two class folders, a tenth for val."""
    for number, content in enumerate(draw_jpegs(count, size)):
        path = Path("files", str(number % 2), f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    changes = {"source": "folder", "folder": "files", "img_px": img_px, "format": "jpg", "val_fraction": 0.1}
    write_images(Path("images"), load("data", Params, params).model_copy(update=changes), machine)
    return Path("images")


def compare_decoding(size: tuple[int, int], img_px: int, rounds: int) -> None:
    """Print medians, ratio and difference."""
    files, pixels = draw_jpegs(6, size), dict[str, np.ndarray]()
    taken: dict[str, list[float]] = {"whole": [], "smaller": []}
    for _ in range(rounds):
        for way, least_px in (("whole", None), ("smaller", img_px)):
            started = time.process_time()
            images = [decode_rgb(content, least_px=least_px)[0] for content in files]
            squares = [np.asarray(to_square(image, img_px, "center", "white"), np.float32) for image in images]
            taken[way].append(time.process_time() - started)
            pixels[way] = np.stack(squares)
    whole, smaller = (statistics.median(values) / len(files) for values in taken.values())
    rms = float(np.sqrt(np.square(pixels["whole"] - pixels["smaller"]).mean()))
    print(
        f"JPEG {size[0]} x {size[1]} -> {img_px} px: whole {whole * 1e3:.0f} ms, smaller {smaller * 1e3:.0f} ms, "
        f"ratio {smaller / whole:.2f}; pixels differ by {rms:.2f} of 255 (rms)"
    )


def write_index(folder: Path, images: int) -> None:
    """An images artifact whose shards are empty."""
    shards = [f"train-{number:06d}.tar" for number in range(-(-images // SHARD_IMAGES))]
    facts = [{"name": name, "samples": SHARD_IMAGES, "bytes": 0} for name in shards]
    config: dict[str, Any] = {"img_px": 256, "format": "jpg", "classes": [str(number) for number in range(CLASSES)]}
    config["splits"] = {"train": {"images": images, "shards": facts}}
    index = np.zeros(images, index_type(FIELDS))
    index["key"], index["shard"] = np.arange(images), np.arange(images) // SHARD_IMAGES
    for field in FIELDS:
        index[field] = 512, 1000
    with artifact.new_artifact(folder, "images", config) as made:
        np.save(made / "train.index.npy", index)
        np.save(made / "train.labels.npy", np.arange(images) % CLASSES)
        for name in shards:
            (made / name).touch()


def open_index(images: int) -> None:
    """Print seconds and memory of opening it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if pid := os.fork():
            os.waitpid(pid, 0)
        else:
            write_index(Path("images"), images)
            os._exit(0)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        opened = len(ImageSplit(Path("images"), "train"))
        seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"index of {opened:,} images: {seconds:.1f} s, {(peak - before) / 1e3:.0f} MB more than before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2000x1500", metavar="WIDTHxHEIGHT")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    open_index(args.images)
    width, height = map(int, args.size.split("x"))
    compare_decoding((width, height), args.px, args.rounds)


if __name__ == "__main__":
    main()
