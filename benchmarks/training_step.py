"""The training loop against a bare one with the same batches, AdamW, averaged weights, clipping and two checkpoints.

Run:    OMP_NUM_THREADS=1 uv run python benchmarks/training_step.py [--dim 384 --depth 8 --batch-size 8]
Expect: per number format, medians of 5 alternated rounds of --steps steps of an `ar` generator on random codes: seconds
        of the bare loop, and its time divided by ours. Both save the first and the last step. Ours loads batches ahead,
        saves in a thread, watches for non-finite values, counts operations, hashes what it saves, and checks that code
        and params are unchanged.
"""

import argparse
import copy
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from stages.core.hardware import compute, process_group
from stages.core.optimizer import Ema, adamw, lr_at, set_lr
from stages.core.params import Machine, load
from stages.core.results import Curves
from stages.core.sampling import autoregressive_loss
from stages.core.schemas import Optim
from stages.core.train import Batch, fit
from stages.generator.transformer import TokenTransformer

CPU, CODES, PATCHES, IMAGES = torch.device("cpu"), 1024, 64, 1000


def batch_of(step: int, batch_size: int, codes: np.ndarray) -> Batch:
    """Labels and codes of one step."""
    index = np.random.default_rng(step).integers(0, IMAGES, batch_size)
    return torch.zeros(batch_size, dtype=torch.int64), torch.from_numpy(codes[index].astype(np.int64))


def loss_of(model: nn.Module, batch: Batch, optim: Optim) -> Tensor:
    with compute(CPU, optim.precision):
        return autoregressive_loss(model, *batch, torch.Generator(), 0.0)


def bare(model: nn.Module, optim: Optim, codes: np.ndarray, folder: Path) -> None:
    """What a script without our loop would do."""
    optimizer, ema = adamw(model, optim), Ema(model, optim.ema_decay)
    for step in range(optim.total_steps):
        set_lr(optimizer, lr_at(step, optim))
        loss_of(model, batch_of(step, optim.batch_size, codes), optim).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step)
        if step in (0, optim.total_steps - 1):
            state = {"model": model.state_dict(), "ema": ema.tensors, "optimizer": optimizer.state_dict()}
            dcp.save({"training": state}, checkpoint_id=folder / str(step))


def ours(model: nn.Module, optim: Optim, codes: np.ndarray, folder: Path, machine: Machine) -> None:
    fit(
        model, optim, lambda step: batch_of(step, optim.batch_size, codes),
        lambda model, batch, step: (loss_of(model, batch, optim), {}), lambda step, model: {}, Curves(),
        work=folder, machine=machine, device=CPU, name="ours", batch_keys=str,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"dim": 128, "depth": 2, "batch-size": 16, "steps": 100, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    codes = np.random.default_rng(0).integers(0, CODES, (IMAGES, PATCHES), dtype=np.uint16)
    torch.manual_seed(0)
    model = TokenTransformer(
        num_codes=CODES, num_classes=1, num_patches=PATCHES, grid=math.isqrt(PATCHES),
        dim=args.dim, depth=args.depth, heads=args.dim // 64,
        dropout=0.0, causal=True,
    )  # fmt: skip
    for precision in ("fp32", "bf16"):
        optim = Optim(
            total_steps=args.steps, batch_size=args.batch_size, lr_peak=1e-3, warmup_share=0.05, weight_decay=0.1,
            beta2=0.98, clip_norm=1.0, ema_decay=0.99, eval_share=1.0, precision=precision, seed=0,
        )  # fmt: skip
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        for _ in range(args.rounds + 1):
            for name, taken in times.items():
                trained = copy.deepcopy(model)
                with tempfile.TemporaryDirectory() as folder, process_group():
                    started = time.perf_counter()
                    if name == "bare":
                        bare(trained, optim, codes, Path(folder))
                    else:
                        ours(trained, optim, codes, Path(folder), load("machine", Machine))
                    taken.append(time.perf_counter() - started)
        medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
        print(f"{precision}: bare {medians['bare']:.2f} s, bare / ours {medians['bare'] / medians['ours']:.3f}")


if __name__ == "__main__":
    main()
