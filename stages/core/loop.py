"""The training loop: one function, straight down, every batch a function of its step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, model_validator

from stages.core import distributed
from stages.core.errors import UserError
from stages.core.params import Section, impossible

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from stages.core.curves import Curves
    from stages.core.schedule import Ema


AnyModule = TypeVar("AnyModule", bound="nn.Module")


class Optim(Section):
    """How any model here is trained: AdamW, linear warm-up then cosine to zero, averaged weights."""

    total_steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr_peak: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    beta2: float = Field(gt=0, lt=1)
    clip_norm: float = Field(gt=0)
    ema_decay: float = Field(ge=0, lt=1)
    eval_every: int = Field(gt=0)  # steps
    precision: Literal["fp32", "bf16"]
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def warm_up_ends(self) -> Optim:
        if self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: expected fewer than total_steps, {self.total_steps}")
        return self


def check_shares(section: str, optim: Optim) -> None:
    """`UserError` if the processes cannot share a batch of `section` equally."""
    if optim.batch_size % (processes := distributed.world_size()):
        raise impossible(f"{section}.batch_size", optim.batch_size, f"expected a multiple of the {processes} processes")


def epoch_batch(step: int, *, count: int, batch_size: int, seed: int) -> np.ndarray:
    """int64 [batch_size]: which of `count` items step `step` sees; every epoch is another seeded permutation.

    Batches run across the ends of epochs, so that all have one size.
    """
    import numpy as np

    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([epoch_order(int(p // count), count, seed)[p % count] for p in positions])


@lru_cache(maxsize=2)
def epoch_order(epoch: int, count: int, seed: int) -> np.ndarray:
    """The permutation of `count` items in which an epoch sees them."""
    import numpy as np

    from stages.core.rng import seed_of

    return np.random.default_rng(seed_of("epoch", seed, epoch)).permutation(count)


def prefetch(batch_at: Callable[[int], Any], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """(step, batch) for each step, the next batch being made while this one is used, on one core.

    On all of them its small operations and those of the training wait for each other's threads: a step of the default
    decoder on two cores took two fifths longer.
    """
    import torch

    torch.get_num_threads()  # from now on this thread keeps its own number
    with ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1)) as maker:
        ahead = maker.submit(batch_at, start)
        for step in range(start, stop):
            batch = ahead.result()
            if step + 1 < stop:
                ahead = maker.submit(batch_at, step + 1)
            yield step, batch


def adamw(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW; norms, biases, position tables, code vectors and what embeds patches, classes or codes are not decayed."""
    import torch

    decayed, free = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embed" in name or name.endswith("vectors")
        (free if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr_peak, betas=(0.9, optim.beta2), fused=True)


class Watch:
    """Notices non-finite losses or gradients without waiting for the device at every step."""

    def __init__(self, device: torch.device):
        import torch

        self.first_bad = torch.full((), -1, device=device)

    def see(self, step: int, *values: Tensor) -> None:
        """Remember `step` if any of the values is not finite and none was before."""
        import torch

        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        self.first_bad = torch.where((self.first_bad < 0) & bad, step, self.first_bad)

    def check(self, batch_keys: Callable[[int], Any]) -> None:
        """Stop if something bad was seen: `UserError` with the step and what was in its batch."""
        if (step := int(self.first_bad)) >= 0:
            raise UserError(
                f"non-finite loss or gradient at step {step}, on the batch {batch_keys(step)}. Lower lr_peak, raise "
                "warmup_steps, or set precision: fp32, and it trains anew; unchanged, it goes on from the last "
                "checkpoint, which is from before that step."
            )


def backward(loss: Tensor, model: nn.Module, clip_norm: float) -> tuple[Tensor, Tensor]:
    """Leave clipped gradients in `model`; the loss and the gradients' norm before clipping.

    `loss` is the mean over this process's share of a batch; all that comes out is of the whole batch, and so the same
    in every process.
    """
    import torch

    loss.backward()
    loss = loss.detach()
    distributed.average([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    return loss, torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)


def fit(
    model: nn.Module,
    optim: Optim,
    batch_at: Callable[[int], Any],
    loss_fn: Callable[[nn.Module, Any, int], tuple[Tensor, dict[str, Tensor]]],
    evaluate: Callable[[int, nn.Module], dict[str, float]],
    curves: Curves,
    *,
    work: Path,
    checkpoint_secs: float,
    device: torch.device,
    name: str,
    batch_keys: Callable[[int], Any],
) -> None:
    """Train `model` in place to its averaged weights. Continues from a checkpoint in `work`; bit-equal on a CPU.

    batch_at(step) makes this process's share of a batch; loss_fn(model, batch, step) returns its mean loss and scalars
    for the curves; evaluate(step, averaged model) returns more scalars, every `eval_every` steps and at the end.
    `name` is for the eye alone: trainings of equal values under different names are the same.
    The first of several processes evaluates, logs and saves for all; any number of them may resume. Each drops out
    activations of its own, so with dropout their number is part of the result.
    """
    import torch

    from stages.core.checkpoint import Checkpoint
    from stages.core.progress import bar
    from stages.core.rng import seed_of
    from stages.core.schedule import Ema, lr_at

    optimizer, ema, start = adamw(model, optim), Ema(model, optim.ema_decay), 0
    checkpoint = Checkpoint(work, checkpoint_secs, {"model": model}, {"model": optimizer}, {"model": ema})
    if state := checkpoint.load():
        start, curves.rows = state["step"], [(step, scalars) for step, scalars in state["curves"]]
    watch = Watch(device)
    with bar(name, optim.total_steps, start, "step") as progress:
        for step, batch in prefetch(batch_at, start, optim.total_steps):
            torch.manual_seed(seed_of("fit", optim.seed, step) + distributed.rank())
            lr = lr_at(step, peak=optim.lr_peak, warmup_steps=optim.warmup_steps, total_steps=optim.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            loss, scalars = loss_fn(model, batch, step)
            loss, norm = backward(loss, model, optim.clip_norm)
            watch.see(step, loss, norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model, step)
            done = step + 1
            progress.update()
            if done % optim.eval_every == 0 or done == optim.total_steps:
                watch.check(batch_keys)
                distributed.average(list(scalars.values()))
                if distributed.rank() == 0:
                    scores = evaluate(done, averaged(model, ema))
                    curves.log(done, lr=lr, loss=float(loss), **{k: float(v) for k, v in scalars.items()}, **scores)
                    progress.set_postfix({k: f"{v:.4g}" for k, v in curves.last().items()}, refresh=False)
            if distributed.rank() == 0 and done < optim.total_steps and checkpoint.due():
                watch.check(batch_keys)
                checkpoint.save({"step": done, "curves": curves.rows})
    ema.copy_to(model)
    model.eval()


def averaged(model: AnyModule, ema: Ema) -> AnyModule:
    """A copy of the model that carries the averaged weights, in evaluation mode."""
    import copy

    twin = copy.deepcopy(model).eval()
    ema.copy_to(twin)
    return twin
