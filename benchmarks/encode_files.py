"""`semtok encode` on files against the tokenizer alone on images in memory: does reading keep up?

Run:    uv run python benchmarks/encode_files.py
        (after: uv run dvc repro codebook)
Expect: minutes on a CPU. PNG files of 32 px, made from scikit-learn's digits at random places on random gray, are
        written to a temporary folder. Then, alternating, --rounds rounds of each: `bare`, Tokenizer.encode of the same
        squares in memory; `files`, all of the command but its imports: listing, reading, cropping, encoding, codes.npz.
        Images per second, medians with the lowest and the highest, and their ratio: on the clock, and per second of CPU
        of all threads, which other programs on the machine change less. One thread for the network (OMP_NUM_THREADS=1);
        the files are read in threads of their own, as in the command.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from stages.codebook.tokenizer import load_tokenizer
from stages.use import encode
from stages.use.files import list_images

PX = 32


def write_files(folder: Path, count: int) -> np.ndarray:
    """PNG files in 100 folders; their pixels, uint8 [count, 32, 32, 3]."""
    scans, rng = load_digits().images, np.random.default_rng(0)
    images = np.empty((count, PX, PX, 3), np.uint8)
    for number in range(count):
        scan = Image.fromarray((scans[number % len(scans)] * 15.9).astype(np.uint8)).resize((24, 24), Image.BICUBIC)
        canvas = Image.new("RGB", (PX, PX), (int(rng.integers(60)),) * 3)
        canvas.paste(scan, tuple(rng.integers(PX - 24 + 1, size=2).tolist()))
        path = folder / f"{number % 100:02d}" / f"{number:05d}.png"
        path.parent.mkdir(exist_ok=True)
        canvas.save(path)
        images[number] = np.asarray(canvas)
    return images


def measure(work: Callable[[], Any], count: int) -> dict[str, float]:
    """Images per second, on the clock and of CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return {"clock": count / (time.perf_counter() - clock), "CPU": count / (time.process_time() - cpu)}


def shown(rates: list[float]) -> str:
    """The median and the extremes."""
    return f"{statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("data/codebook/kmeans"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    tokenizer, found = load_tokenizer(args.tokenizer), {"bare": [], "files": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary, "images"), Path(temporary, "codes.npz")
        folder.mkdir()
        images = write_files(folder, args.images)
        works = {
            "bare": lambda: tokenizer.encode(images),
            "files": lambda: encode.main(list_images([folder]), args.tokenizer, out, "cpu"),
        }
        for _ in range(args.rounds):
            for name, work in works.items():
                found[name].append(measure(work, len(images)))
            out.unlink()
    for timer in ("clock", "CPU"):
        rates = {name: [one[timer] for one in rounds] for name, rounds in found.items()}
        ratio = statistics.median(rates["files"]) / statistics.median(rates["bare"])
        print(f"{timer:5s} bare {shown(rates['bare'])}, files {shown(rates['files'])}: {ratio:.3f}")


if __name__ == "__main__":
    main()
