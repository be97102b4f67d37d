"""Peak memory of the reference and of the metrics of generated samples, on features drawn at random.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/evaluation.py
Expect: peaks of building a reference of 50,000 train and 5,000 val images with 2,048 features each, and of scoring
        50,000 samples against it; a quarter of an hour on one thread. Other sizes: --images, --val, --dim.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stages.core import artifact
from stages.core.networks import save_tensors
from stages.core.runtime import keep_memory
from stages.evaluate.evaluator import Evaluator
from stages.evaluate.image_features import ImageFeatures, extract_all
from stages.evaluate.params import NO_STATISTICS, GenerationParams, ReferenceParams
from stages.evaluate.reference import FILE, TYPE, load_reference, peak_bytes, tensors_of
from stages.evaluate.set_scores import set_metrics

BATCH, PIXEL_PX = 100, 16
REFERENCE = ReferenceParams(
    max_images=0, prc_neighbors=3, density_neighbors=5, pixel_px=PIXEL_PX, extractors={}, compare_with="train",
    statistics=NO_STATISTICS, statistics_by="inception", seed=0,
)  # fmt: skip
PARAMS = GenerationParams(
    decoding_precision="fp32", kid_subset_size=1000, bootstrap_draws=0, fid_counts=0, neighbors_shown=1, seed=0
)


def drawn(dim: int) -> Any:
    """An `Extract` that gives random features and thumbnails, whatever the images."""
    rng = torch.Generator().manual_seed(0)

    def extract(images: np.ndarray) -> ImageFeatures:
        features, thumbs = (torch.randn(len(images), size, generator=rng) for size in (dim, 3 * PIXEL_PX**2))
        return ImageFeatures({"embedded": features}, {}, thumbs)

    return extract


def extracted(count: int, dim: int) -> ImageFeatures:
    """The features of so many images."""
    return extract_all(count, lambda batch: np.empty((len(batch), 8, 8, 3), np.uint8), drawn(dim), BATCH)


def build(folder: Path, images: int, val: int, dim: int) -> None:
    """The reference artifact."""
    config = {**REFERENCE.model_dump(), "extractors": {"embedded": {}}, "compared": {}}
    with artifact.new_artifact(folder, TYPE, config) as made:
        found = tensors_of({"train": extracted(images, dim), "val": extracted(val, dim)}, None, REFERENCE)
        numbers = {"index": torch.arange(images), "labels": torch.full((images,), -1), "val.labels": torch.zeros(val)}
        save_tensors(made / FILE, {**numbers, **found})


def score(folder: Path, images: int, val: int, dim: int) -> None:
    """The metrics of samples."""
    extractors: Any = {"embedded": SimpleNamespace(facts={})}
    evaluator = Evaluator(folder, extractors, drawn(dim), load_reference(folder, extractors), BATCH)
    samples = evaluator.extract_all(images, lambda batch: np.empty((len(batch), 8, 8, 3), np.uint8))
    evaluator.neighbor_metrics(samples)
    set_metrics(samples, np.full(images, -1), evaluator, PARAMS)


def peak() -> int:
    """Peak resident memory of this process in bytes, files that are mapped into it included."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measured(work: Any, found: Any, *arguments: Any) -> None:
    """In a process of its own: what it takes before and at most."""
    keep_memory()  # as every stage does
    before, started = peak(), time.process_time()
    work(*arguments)
    found.put((before, peak(), time.process_time() - started))


def measure(images: int, val: int, dim: int) -> dict[str, int]:
    """Print and return the peak of each part."""
    peaks, context = {}, multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        for work in (build, score):
            found = context.SimpleQueue()
            child = context.Process(target=measured, args=(work, found, Path(place, "reference"), images, val, dim))
            child.start()
            child.join()
            assert child.exitcode == 0, work.__name__
            before, peaks[work.__name__], seconds = found.get()
            sizes = f"{before / 1e6:.0f} MB of imports, peak {peaks[work.__name__] / 1e6:,.0f} MB"
            print(f"{work.__name__}, {images:,} images x {dim:,}: {sizes}; {seconds:.0f} s of CPU", flush=True)
    print(f"announced: {peak_bytes(images + val, dim, PIXEL_PX) / 1e6:,.0f} MB")
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--val", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=2_048)
    args = parser.parse_args()
    measure(args.images, args.val, args.dim)


if __name__ == "__main__":
    main()
