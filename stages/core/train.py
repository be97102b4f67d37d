"""The training loop and its parts. Every batch is a function of its step, so a resumed training continues exactly."""

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import UserError
from stages.core.checkpoint import Checkpoint
from stages.core.distributed import linspace_indices, rank, seed_of, share_of
from stages.core.hardware import average
from stages.core.images import random_maps, to_float, warp
from stages.core.progress import bar
from stages.core.results import Curves
from stages.core.schemas import Affine, Optim

EVAL_IMAGES = 256  # images per split on which curves are measured
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def epoch_batch(step: int, *, count: int, batch_size: int, seed: int) -> np.ndarray:
    """int64 [batch_size]: which of `count` items `step` uses; every epoch is another seeded permutation.

    Batches run across the ends of epochs, so that all have the same size.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([epoch_order(int(p // count), count, seed)[p % count] for p in positions])


@lru_cache(maxsize=2)
def epoch_order(epoch: int, count: int, seed: int) -> np.ndarray:
    """int64 [count]: the seeded permutation of one epoch."""
    return np.random.default_rng(seed_of("epoch", seed, epoch)).permutation(count)


class Batches:
    """Augmented training batches, each a function of its step, and a plain subset for evaluation.

    `splits` are {train, val: stages.data.reader.ImageSplit}; `word` is a part of the augmentation's seed.
    """

    def __init__(self, word: str, splits: dict[str, Any], augment: Affine, optim: Optim, device: torch.device):
        self.word, self.splits, self.augment, self.optim, self.device = word, splits, augment, optim, device

    def batch_at(self, step: int) -> Tensor:
        """float [B, 3, H, W] in [-1, 1]: the share of this process of the batch of `step`."""
        index = self.batch_index(step)
        rng = torch.Generator().manual_seed(seed_of(self.word, self.optim.seed, step))
        maps = random_maps(len(index), self.augment, rng)
        pixels = to_float(self.splits["train"].read(share_of(index)), self.device)
        return warp(pixels, share_of(maps))

    def batch_index(self, step: int) -> np.ndarray:
        """int64 [batch_size]: indices of the train images of `step`, of all processes together."""
        optim = self.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_keys(self, step: int) -> list[str]:
        """The keys of the train images of `step`."""
        return [self.splits["train"].keys[i] for i in self.batch_index(step)]

    @cached_property
    def eval_subset(self) -> dict[str, np.ndarray]:
        """{split: uint8 [M, H, W, 3]}: at most EVAL_IMAGES images per split, evenly spaced."""
        return {name: split.read(linspace_indices(len(split), EVAL_IMAGES)) for name, split in self.splits.items()}


def prefetch(batch_at: Callable[[int], Any], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """(step, batch) per step; the next batch is made on one core while this one is used.

    On all cores, its small operations and those of the training would wait for each other's threads: a step of the
    default decoder on two cores takes 40 % longer.
    """
    torch.get_num_threads()  # from now on this thread keeps its own number
    with ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1)) as maker:
        ahead = maker.submit(batch_at, start) if start < stop else None
        for step in range(start, stop):
            assert ahead is not None
            batch = ahead.result()
            if step + 1 < stop:
                ahead = maker.submit(batch_at, step + 1)
            yield step, batch


def adamw(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW without weight decay on norms, biases, position tables, code vectors and embeddings.

    A parameter counts as one of these if it has one dimension, has "embed" in its name, or ends with "vectors".
    """
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embed" in name or name.endswith("vectors")
        (free if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr_peak, betas=(0.9, optim.beta2), fused=True)


def lr_at(step: int, optim: Optim) -> float:
    """Linear warm-up from lr_peak / warmup_steps to lr_peak, then half a cosine to 0 at total_steps.

    Steps count from 0.
    """
    if step < optim.warmup_steps:
        return optim.lr_peak * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.total_steps - optim.warmup_steps)
    return optim.lr_peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Ema:
    """Exponential moving average of a model's floating-point tensors: avg = decay * avg + (1 - decay) * weight.

    The decay is at most (1 + step) / (10 + step), so that early averages forget the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
        }

    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the model's weights after `step`, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(self.tensors.values()), [state[name] for name in self.tensors], 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the average."""
        model.load_state_dict(self.tensors, strict=False)


def averaged(model: AnyModule, ema: Ema) -> AnyModule:
    """A copy of the model that carries the averaged weights, in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    ema.copy_to(twin)
    return twin


class NonFiniteMonitor:
    """Records the first step with a non-finite loss or gradient, without waiting for the device at every step."""

    def __init__(self, device: torch.device):
        self.first_bad = torch.full((), -1, device=device)

    def update(self, step: int, *values: Tensor) -> None:
        """Record `step` if one of the values is not finite and no earlier step is recorded."""
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        self.first_bad = torch.where((self.first_bad < 0) & bad, step, self.first_bad)

    def check(self, batch_keys: Callable[[int], Any]) -> None:
        """Stop at a non-finite value: `UserError` with the step and the keys of its batch."""
        if (step := int(self.first_bad)) >= 0:
            raise UserError(
                f"non-finite loss or gradient at step {step}, on the batch {batch_keys(step)}. Lower lr_peak, raise "
                "warmup_steps, or set precision: fp32; each starts the training anew. Unchanged, it continues from "
                "the last checkpoint, which is from before that step."
            )


def backward(loss: Tensor, model: nn.Module, clip_norm: float) -> tuple[Tensor, Tensor]:
    """Leave clipped gradients in `model`; return the loss and the gradients' norm before clipping.

    `loss` is the mean over this process's share of a batch. Gradients and both returned values are those of the whole
    batch, and so the same in every process.
    """
    loss.backward()
    loss = loss.detach()
    average([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    return loss, torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)


def fit(
    model: nn.Module,
    optim: Optim,
    batch_at: Callable[[int], Any],
    loss_fn: Callable[[Any, Any, int], tuple[Tensor, dict[str, Tensor]]],
    evaluate: Callable[[int, Any], dict[str, float]],
    curves: Curves,
    *,
    work: Path,
    checkpoint_secs: float,
    device: torch.device,
    name: str,
    batch_keys: Callable[[int], Any],
) -> None:
    """Train `model` in place to its averaged weights. Continues from a checkpoint in `work`, bit-identical on a CPU.

    batch_at(step) makes this process's share of a batch; loss_fn(model, batch, step) returns its mean loss and scalars
    for the curves; evaluate(step, averaged model) returns more scalars, every `eval_every` steps and at the end.
    `name` labels the progress bar and enters no seed.
    Rank 0 evaluates, logs and saves for all processes; a training may resume with another number of them. Dropout
    differs between processes, so with dropout their number changes the result.
    """
    optimizer, ema, start = adamw(model, optim), Ema(model, optim.ema_decay), 0
    checkpoint = Checkpoint(work, checkpoint_secs, {"model": model}, {"model": optimizer}, {"model": ema})
    if state := checkpoint.load():
        start, curves.rows = state["step"], [(step, scalars) for step, scalars in state["curves"]]
    monitor = NonFiniteMonitor(device)
    with bar(name, optim.total_steps, start, "step") as progress:
        for step, batch in prefetch(batch_at, start, optim.total_steps):
            torch.manual_seed(seed_of("fit", optim.seed, step) + rank())
            set_lr(optimizer, lr := lr_at(step, optim))
            model.train()
            loss, scalars = loss_fn(model, batch, step)
            loss, norm = backward(loss, model, optim.clip_norm)
            monitor.update(step, loss, norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model, step)
            done = step + 1
            progress.update()
            if done % optim.eval_every == 0 or done == optim.total_steps:
                monitor.check(batch_keys)
                average(list(scalars.values()))
                if rank() == 0:
                    scores = evaluate(done, averaged(model, ema))
                    curves.log(done, lr=lr, loss=float(loss), **{k: float(v) for k, v in scalars.items()}, **scores)
                    progress.set_postfix({k: f"{v:.4g}" for k, v in curves.last().items()}, refresh=False)
            if rank() == 0 and (done == optim.total_steps or checkpoint.due()):
                monitor.check(batch_keys)
                checkpoint.save({"step": done, "curves": curves.rows})
    ema.copy_to(model)
    model.eval()
