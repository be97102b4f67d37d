"""Learning rate and weight average as functions of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def lr_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """From peak / warmup_steps to `peak` in a line over the warm-up, then half a cosine to 0 at `total_steps`.

    Steps count from 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Ema:
    """Exponential moving average of a model's floating tensors: avg = decay * avg + (1 - decay) * weight.

    The decay is capped by (1 + step) / (10 + step), so that early averages forget the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
        }

    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's present weights."""
        import torch

        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(self.tensors.values()), [state[name] for name in self.tensors], 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights by the average."""
        model.load_state_dict(self.tensors, strict=False)
