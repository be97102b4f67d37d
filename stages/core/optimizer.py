"""What updates weights: AdamW, its learning rate, clipped gradients, averages, the watch for non-finite values."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import UserError
from stages.core.distributed import world_size
from stages.core.schemas import Optim

Scalars = dict[str, Tensor]  # of a training, by the name of their curve
NEVER = 2**62  # a step that no training reaches


def uncompiled(method: str) -> Any:
    """A method of torch's Adam without its decorators, which import torch._dynamo for the sake of torch.compile."""
    return getattr(torch.optim.Adam, method).__wrapped__


class Uncompiled(torch.optim.Optimizer):
    """Optimizers that torch.compile never sees: a training starts without an import that takes as long as torch's."""

    step = torch.no_grad()(uncompiled("step"))
    add_param_group, zero_grad = uncompiled("add_param_group"), uncompiled("zero_grad")
    state_dict, load_state_dict = uncompiled("state_dict"), uncompiled("load_state_dict")


class Adam(Uncompiled, torch.optim.Adam):
    """torch's."""


class AdamW(Uncompiled, torch.optim.AdamW):
    """torch's."""


def adamw(model: nn.Module, optim: Optim) -> AdamW:
    """AdamW without weight decay on norms, biases, position tables, code vectors and embeddings.

    A parameter counts as one of these if it has one dimension, has "embed" in its name, or ends with "vectors".
    A model with a method `parameter_groups` has groups of its own, whose `lr_scale` multiplies their learning rate.
    """
    if own := getattr(model, "parameter_groups", None):
        return AdamW(own(optim), lr=optim.lr_peak, betas=(0.9, optim.beta2), fused=True)
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        (free if is_free(name, parameter) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return AdamW(groups, lr=optim.lr_peak, betas=(0.9, optim.beta2), fused=True)


def is_free(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is free of weight decay."""
    return parameter.ndim < 2 or "embed" in name or name.endswith("vectors")


def lr_at(step: int, optim: Optim) -> float:
    """Linear warm-up from lr_peak / warmup_steps to lr_peak, then half a cosine to 0 at total_steps.

    Steps count from 0.
    """
    if step < optim.warmup_steps:
        return optim.lr_peak * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.total_steps - optim.warmup_steps)
    return optim.lr_peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`, times its `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class Ema:
    """Exponential moving average of a model's floating-point tensors: avg = decay * avg + (1 - decay) * weight.

    The decay is at most (1 + step) / (10 + step), so that early averages forget the initial weights. Of other tensors,
    such as counters, the newest value is kept. The average of a sharded tensor is sharded like it.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.names = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]

    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the model's weights after `step`, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        averages = [own_part(self.tensors[name]) for name in self.names]
        torch._foreach_lerp_(averages, [own_part(state[name]) for name in self.names], 1 - decay)
        for name in state.keys() - set(self.names):
            self.tensors[name].copy_(state[name])

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the weights of a model that is not sharded with the average."""
        model.load_state_dict({name: whole_tensor(tensor) for name, tensor in self.tensors.items()}, strict=False)


class NonFiniteMonitor:
    """Records the first step with a non-finite loss or gradient, without waiting for the device at every step."""

    def __init__(self, device: torch.device):
        self.first_bad = torch.full((), NEVER, device=device)

    def update(self, step: int, *values: Tensor) -> None:
        """Record `step` if one of the values is not finite and no earlier step is recorded."""
        bad = ~torch.stack([value.detach().float() for value in values]).isfinite().all()
        self.first_bad = torch.where((self.first_bad == NEVER) & bad, step, self.first_bad)

    def check(self, batch_keys: Callable[[int], Any]) -> None:
        """Stop every process at a non-finite value in one: `UserError` with the step and the keys of its batch."""
        if world_size() > 1:
            torch.distributed.all_reduce(self.first_bad, torch.distributed.ReduceOp.MIN)
        if (step := int(self.first_bad)) < NEVER:
            raise UserError(
                f"non-finite loss or gradient at step {step}, on the batch {batch_keys(step)}. Lower lr_peak, raise "
                "warmup_share, or set precision: fp32; each starts the training anew. Unchanged, it continues from "
                "the last checkpoint, which is from before that step."
            )


def clip(model: nn.Module, clip_norm: float) -> Tensor:
    """Clip the gradients of `model` in place; their norm before."""
    return whole_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm))


def mean_of(results: list[Scalars]) -> Scalars:
    """The mean of each scalar over micro-batches."""
    return {name: torch.stack([scalars[name] for scalars in results]).mean(0) for name in results[0]}


def whole_tensor(tensor: Any) -> Tensor:
    """All of a sharded tensor, in every process; any other tensor itself."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Any) -> Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
