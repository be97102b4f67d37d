"""Decoding speed: images per second of every decoder artifact, and the ratio to the first onestep decoder.

Run:    OMP_NUM_THREADS=2 uv run python benchmarks/decoders.py data/decoder/kmeans-*      (after: uv run dvc repro)
Expect: one line per decoder: images per second, median and range of 5 alternated runs, ratio. A decoder that takes
        steps has one line for its own number and one for each of --steps.

Codes are random, because the cost of decoding does not depend on them. A first run of each decoder warms up.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from stages.core import UserError
from stages.core.hardware import pick_device
from stages.decoder.decoder import Decoder, load_decoder


def variants(folders: list[Path], steps: list[int], device: torch.device) -> dict[str, Decoder]:
    """{path: decoder}; a decoder that takes steps has one entry for each number of them."""
    found = {}
    for folder in folders:
        decoder = load_decoder(folder, device)
        if decoder.steps is None:
            found[str(folder)] = decoder
        for number in sorted({*steps, decoder.steps}) if decoder.steps else []:
            found[f"{folder}, {number} steps"] = decoder.with_steps(number)
    return found


def random_codes(decoder: Decoder, count: int) -> np.ndarray:
    """int64 [count, N]."""
    return np.random.default_rng(0).integers(0, decoder.num_codes, (count, decoder.num_patches))


def seconds_of(decoder: Decoder, codes: np.ndarray, batch_size: int) -> float:
    """Seconds to decode all codes to images on the CPU."""
    started = time.perf_counter()
    decoder.decode(codes, torch.Generator().manual_seed(0), batch_size)
    return time.perf_counter() - started


def compare(decoders: dict[str, Decoder], images: int, batch_size: int, rounds: int) -> None:
    """Print images per second of each decoder."""
    baseline = next((name for name, one in decoders.items() if one.config["kind"] == "onestep"), None)
    if baseline is None:
        raise UserError("expected at least one decoder of kind onestep, the baseline of the ratios")
    codes = {name: random_codes(one, images) for name, one in decoders.items()}
    for name, decoder in decoders.items():
        seconds_of(decoder, codes[name][:batch_size], batch_size)
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            taken[name].append(seconds_of(decoder, codes[name], batch_size))
    of_baseline = statistics.median(taken[baseline])
    for name, values in taken.items():
        median, spread = statistics.median(values), f"{min(values):.3g} to {max(values):.3g} s"
        ratio = of_baseline / median
        print(f"  {name:40} {images / median:10,.1f} images/s ({spread}), {ratio:.3f} of {baseline}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoders", type=Path, nargs="+", help="decoder artifacts, one of them of kind onestep")
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="additional numbers of decoding steps")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = pick_device(args.device)
    print(f"{args.images} images, batches of {args.batch_size}; medians of {args.rounds} alternated runs")
    compare(variants(args.decoders, args.steps, device), args.images, args.batch_size, args.rounds)


if __name__ == "__main__":
    main()
