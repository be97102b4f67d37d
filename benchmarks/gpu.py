"""What trainings and sampling reach on a GPU, part by part; every figure is on disk as soon as it is known.

Run:    python -m benchmarks.gpu --out FOLDER [--sections loading training …] [--minutes 12] [--size tiny]
Expect: FOLDER/figures.json and FOLDER/figures.txt, at most 12 minutes on one H200. A section that takes longer than its
        limit, or fails, is ended and named; the figures that it had stay, and the next one follows.

device    products of large matrices, copies on the device, copies to it from pinned and from plain memory
loading   images per second: the loader alone, a training that needs no loader, both together
training  steps of a generator with over 100 million parameters, eager and compiled: codes per second, MFU, memory
profile   of a step of both trainings: waiting for data, copies, forward, backward, the rest; the longest operations
sampling  images per second of that generator at several batch sizes, and the share of what memory bandwidth allows
twins     whether equal trainings and equal samplings in bf16 end equal
sharded   the generator under FSDP2 in one process, beside the plain one
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.image_training import loading
from benchmarks.gpu_parts.profiling import profile
from benchmarks.gpu_parts.rates import device_rates
from benchmarks.gpu_parts.sampling import sampling
from benchmarks.gpu_parts.sizes import SIZES
from benchmarks.gpu_parts.token_training import sharded, training, twins

SECTIONS = {  # seconds that each may take
    device_rates: 40, loading: 120, training: 150, profile: 130, sampling: 110, twins: 80, sharded: 80
}  # fmt: skip
WORK = {function.__name__.removesuffix("_rates"): (function, limit) for function, limit in SECTIONS.items()}


def measure(name: str, size: str, out: Path) -> None:
    """Run one section in this process; an error is noted among its figures, too."""
    device, figures = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Figures(out, name)
    try:
        WORK[name][0](SIZES[size], device, figures)
    except Exception as error:
        figures.note("error", f"{type(error).__name__}: {error}"[:1500])
        raise


def start(name: str, size: str, out: Path, seconds: float) -> str:
    """Run one section in a process of its own, at most so long; why it ended early, or nothing.

    The process is a fork, which has imported everything already; this one uses no GPU, so that its forks can.
    """
    child = multiprocessing.get_context("fork").Process(target=measure, args=(name, size, out))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        return f"stopped after {seconds:.0f} s"
    return f"failed with status {child.exitcode}" if child.exitcode else ""


def run_all(names: list[str], size: str, out: Path, minutes: float) -> None:
    """One section after the other until the time is up."""
    began = time.monotonic()
    for name in names:
        left = began + 60 * minutes - time.monotonic()
        figures, started = Figures(out, name), time.monotonic()
        ended = start(name, size, out, min(left, WORK[name][1])) if left > 10 else "not begun: the time is up"
        figures.add("seconds", time.monotonic() - started, "s")
        if ended:
            figures.note("ended", ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=[*WORK], default=[*WORK])
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--size", choices=[*SIZES], default="large", help="tiny: for a test on a CPU")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run_all(args.sections, args.size, args.out, args.minutes)


if __name__ == "__main__":
    main()
