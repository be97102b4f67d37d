"""The store of codes, one memory-mapped array per split, against one .npy file per image.

Run:    uv run python benchmarks/store.py [--images 100000 --codes 256]
Expect: medians of 5 alternated rounds in seconds of the clock, and ratios: random batches of 64 images as a training
        reads them, and writing with all that the stage `tokens` does beside encoding (parts that a killed run keeps,
        the joined array, hashes). Two minutes, 250 MB in a temporary folder.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.core.distributed import epoch_batch
from stages.core.runtime import keep_memory
from stages.tokens.reader import load_tokens
from stages.tokens.writer import PART_IMAGES, Part, encode_part, part_path, publish

BATCH, NUM_CODES, PER_FOLDER = 64, 1032, 1000


def write_ours(codes: np.ndarray, folder: Path) -> None:
    """The parts, then the artifact `tokens`; of val a single image."""
    count, work = len(codes), folder / "work"
    work.mkdir(parents=True)
    ends = [(start, min(start + PART_IMAGES, count)) for start in range(0, count, PART_IMAGES)]
    parts: list[Part] = [("val", 0, 1), *(("train", *run) for run in ends)]
    for part in parts:
        encode_part(part_path(work, part), part, lambda batch: codes[None, batch.start : batch.stop], PART_IMAGES)
    labels = {"train": np.zeros(count, np.int64), "val": np.zeros(1, np.int64)}
    facts = {"num_codes": NUM_CODES, "dtype": "uint16", "num_patches": codes.shape[1], "classes": ["one"], "views": 1}
    publish(work, folder / "tokens", parts, labels, {"train": 1, "val": 1}, facts)


def file_of(folder: Path, number: int) -> Path:
    """Where one image's codes are."""
    return folder / f"{number // PER_FOLDER:04d}" / f"{number:08d}.npy"


def write_files(codes: np.ndarray, folder: Path) -> None:
    for number, row in enumerate(codes):
        path = file_of(folder, number)
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        np.save(path, row)


def reader_of_ours(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Numbers of images -> int64 [B, N], as the batches of a generator."""
    codes = load_tokens(folder / "tokens", "train").codes
    return lambda index: codes[np.zeros(len(index), np.int64), index].astype(np.int64)


def reader_of_files(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    return lambda index: np.stack([np.load(file_of(folder, number)) for number in index.tolist()]).astype(np.int64)


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def report(what: str, taken: dict[str, list[float]]) -> None:
    """Print medians and their ratio."""
    ours, files = (statistics.median(taken[name]) for name in ("ours", "files"))
    print(f"{what}: ours {ours:.4g} s, one file per image {files:.4g} s, ratio {files / ours:.0f}", flush=True)


def compare_writing(codes: np.ndarray, root: Path, rounds: int) -> None:
    """Each round writes to new folders; the last ones stay, as `ours` and `files` in `root`."""
    writers, taken = {"ours": write_ours, "files": write_files}, {"ours": [], "files": []}
    for _ in range(rounds):
        for name, write in writers.items():
            shutil.rmtree(root / name, ignore_errors=True)
            taken[name].append(seconds_of(lambda write=write, name=name: write(codes, root / name)))
    report(f"writing {len(codes):,} x {codes.shape[1]} codes", taken)


def compare_reading(codes: np.ndarray, root: Path, steps: int, rounds: int) -> None:
    """The same random batches by both; which are equal."""
    batches = [epoch_batch(step, count=len(codes), batch_size=BATCH, seed=0) for step in range(steps)]
    readers = {"ours": reader_of_ours(root / "ours"), "files": reader_of_files(root / "files")}
    assert np.array_equal(readers["ours"](batches[0]), readers["files"](batches[0]))
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            taken[name].append(seconds_of(lambda read=read: [read(index) for index in batches]))
    report(f"reading {steps} random batches of {BATCH}", taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_memory()  # as every stage does
    codes = np.random.default_rng(0).integers(0, NUM_CODES, (args.images, args.codes)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        compare_writing(codes, Path(folder), args.rounds)
        compare_reading(codes, Path(folder), args.steps, args.rounds)


if __name__ == "__main__":
    main()
